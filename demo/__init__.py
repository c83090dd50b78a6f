"""The demo's tabs, a module each (live, photo, video, words, about), and what they share; app.py puts them together.

live_session, spectrogram, why, timeline and annotate are parts of single tabs; emotions, views, uploads and page are
shared by all; static/ holds the browser's files.
"""
