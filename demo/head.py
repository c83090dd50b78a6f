"""The page's <head>: what is shown where its address is shared, and the address that its own files are found from.

Gradio's template has tags of its own for that, which come first and say "Gradio", no title before its script has run,
and a base that is the folder above an address without a trailing slash.
"""

import re

from gradio.routes import templates
from jinja2 import ChoiceLoader, DictLoader

from demo.page import asset

TITLE = "EmoCLIP: what your face and your voice show"
DESCRIPTION = (
    "See which emotion your face and your voice show, live, and whether they agree. One small network on the demo's "
    "own server: nothing is kept."
)
# Of demo.css, what would move the page if it came as late as that does.
FIRST_STYLE = (
    "html { scrollbar-gutter: stable; } "
    ".gradio-container { max-width: 1180px !important; width: 100%; margin: 0 auto !important; }"
)
TEMPLATE = "frontend/index.html"
GRADIOS_TAGS = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')
# Filled in for each visitor: only his request tells the server's public address. The base is without scheme and host,
# which a proxy may have changed.
HEAD = f"""<title>{TITLE}</title>
<meta name="description" content="{DESCRIPTION}" />
<meta property="og:type" content="website" />
<meta property="og:title" content="{TITLE}" />
<meta property="og:description" content="{DESCRIPTION}" />
<meta property="og:url" content="{{{{ config.root }}}}/" />
<meta property="og:image" content="{{{{ config.root }}}}/{asset("preview.jpg")}" />
<meta property="og:image:width" content="1200" />
<meta property="og:image:height" content="630" />
<meta name="twitter:card" content="summary_large_image" />
<style>{FIRST_STYLE}</style>
"""
BASE = '<base href="/{{ (config.root ~ "/").split("/", 3)[3] }}" />'


def use_own_head() -> None:
    """Gradio's page has this head from now on."""
    loader = templates.env.loader
    source = GRADIOS_TAGS.sub("", loader.get_source(templates.env, TEMPLATE)[0])
    source = re.sub(r"<base [^>]*>", lambda _: BASE, source, count=1)
    source = re.sub(r"(?=<style>)", lambda _: HEAD, source, count=1)
    templates.env.loader = ChoiceLoader([DictLoader({TEMPLATE: source}), loader])
    templates.env.cache.clear()
