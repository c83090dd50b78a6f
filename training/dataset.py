"""Faces, voices and prompts as rows and batches.

train = FaceVoiceDataset(faces.train, split_voices(voices, fold=0).train, prompts, voices_per_epoch=9_000)
"""

import math

import torch
from datasets import Dataset

from configuration_emoclip import LABELS
from training.labels import vote_targets
from training.sources import FACE_SIZE


def to_tensors(
    dataset: Dataset | None, column: str, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8
) -> tuple[torch.Tensor, torch.Tensor]:
    """A binary column as (n, *shape), and the labels (n,); both empty without a dataset."""
    if not dataset:
        return torch.empty(0, *shape, dtype=dtype), torch.empty(0, dtype=torch.long)
    data = torch.frombuffer(bytearray(b"".join(dataset[column])), dtype=dtype)
    return data.view(-1, *shape), torch.tensor(dataset["label"])


def voice_tensors(voices: Dataset | None, mel_shape: tuple[int, int]) -> tuple[str, torch.Tensor, torch.Tensor]:
    """The voices of `load_voices`, what they are called, and their labels (n,): `mels` (n, *mel_shape) uint8, or
    `waveforms` (n, T) int16."""
    if voices and "waveform" in voices.column_names:
        samples = len(voices[0]["waveform"]) // torch.int16.itemsize
        return "waveforms", *to_tensors(voices, "waveform", (samples,), torch.int16)
    return "mels", *to_tensors(voices, "mel", mel_shape)


class FaceVoiceDataset(torch.utils.data.Dataset):
    """Rows with a face, a voice, or both of one label, and a prompt that speaks of it.

    FER-2013 and CREMA-D share no people: a pair can only mean the same emotion. Every epoch draws the pairs anew
    from (seed, epoch) alone. Every face stands in one row; voices join rows of their label, each as often as any
    other, and those of a label with too few faces stand in rows of their own. Rows are shuffled already: draw them
    in order.

    Args:
        faces, voices: in the one form, or None.
        prompts: for each of LABELS, the token ids (n, L) of its prompts, or None for rows without text.
        mel_shape: bands and frames.
        voices_per_epoch: rows that carry a voice; None for each voice once.
        seed: of the pairs and prompts.
        device: where everything is held, and batches are put together: 240 MB for both datasets whole.
    """

    def __init__(
        self,
        faces: Dataset | None,
        voices: Dataset | None,
        prompts: list[torch.Tensor] | None = None,
        mel_shape: tuple[int, int] = (128, 188),
        voices_per_epoch: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        pixels, self.face_labels = to_tensors(faces, "pixels", (FACE_SIZE, FACE_SIZE))
        self.voices_name, voices_, self.voice_labels = voice_tensors(voices, mel_shape)
        self.pixels, self.voices = pixels.to(device), voices_.to(device)
        self.votes = {
            "face_votes": vote_targets(faces, self.face_labels).to(device),
            "voice_votes": vote_targets(voices, self.voice_labels).to(device),
        }
        self.prompt_counts = None
        if prompts is not None:
            self.prompt_counts = torch.tensor([len(p) for p in prompts])
            self.prompts = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)  # (labels, most, L)
        self.device = device
        self.seed = seed
        every = len(self.voices)
        self.repeats = (every if voices_per_epoch is None else voices_per_epoch) / max(every, 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Draws the epoch's pairs; their number is the same in every epoch."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        face_rows, voice_rows = [torch.arange(len(self.pixels))], [torch.full((len(self.pixels),), -1)]
        for label in range(len(LABELS)):
            faces = (self.face_labels == label).nonzero().flatten()
            voices = (self.voice_labels == label).nonzero().flatten()
            count = round(len(voices) * self.repeats)
            rounds = math.ceil(self.repeats)  # every voice once, in another order, before any comes again
            orders = [torch.randperm(len(voices), generator=generator) for _ in range(rounds)]
            drawn = voices[torch.cat([*orders, torch.empty(0, dtype=torch.long)])[:count]]
            chosen = faces[torch.randperm(len(faces), generator=generator)[:count]]
            voice_rows[0][chosen] = drawn[: len(chosen)]
            voice_rows.append(drawn[len(chosen) :])
            face_rows.append(torch.full((len(drawn) - len(chosen),), -1))
        self.face_rows, self.voice_rows = torch.cat(face_rows), torch.cat(voice_rows)
        order = spread((self.face_rows >= 0).long() + 2 * (self.voice_rows >= 0), generator)
        self.face_rows, self.voice_rows = self.face_rows[order], self.voice_rows[order]
        self.row_labels = torch.where(
            self.face_rows >= 0, take(self.face_labels, self.face_rows), take(self.voice_labels, self.voice_rows)
        )
        if self.prompt_counts is not None:
            draws = torch.rand(len(self), generator=generator)
            self.prompt_rows = (draws * self.prompt_counts[self.row_labels]).long()

    def __len__(self) -> int:
        return len(self.face_rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch at once, which is what the data loader asks for: `faces` (B, 48, 48) and `mels`
        (B, bands, frames) uint8 or `waveforms` (B, T) int16, labels and masks (B,), what people voted
        (`face_votes`, `voice_votes`, (B, C) shares), `input_ids` (B, L). A row that lacks one holds zeros. The masks
        stay on the CPU, see the model's forward."""
        indices = torch.as_tensor(indices)
        face_rows, voice_rows, labels = self.face_rows[indices], self.voice_rows[indices], self.row_labels[indices]
        device_labels = labels.to(self.device, non_blocking=True)
        batch = {
            "faces": take(self.pixels, face_rows),
            self.voices_name: take(self.voices, voice_rows),
            "face_labels": device_labels,
            "voice_labels": device_labels,
            "face_votes": take(self.votes["face_votes"], face_rows),
            "voice_votes": take(self.votes["voice_votes"], voice_rows),
            "face_mask": face_rows >= 0,
            "voice_mask": voice_rows >= 0,
        }
        if self.prompt_counts is not None:
            prompts = labels * self.prompts.shape[1] + self.prompt_rows[indices]
            batch["input_ids"] = self.prompts.flatten(0, 1)[prompts.to(self.device, non_blocking=True)]
        return batch


def spread(kinds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random order (n,) in which every stretch holds the same share of each of `kinds` (n,).

    Batches drawn in this order have as many faces and voices as one another: batch norm sees batches of one size,
    and a GPU prepares its convolutions once.
    """
    places = torch.empty(len(kinds), dtype=torch.float64)
    for kind in kinds.unique():
        members = (kinds == kind).nonzero().flatten()
        ranks = torch.randperm(len(members), generator=generator)
        places[members] = (ranks + torch.rand(1, generator=generator)).double() / len(members)
    return places.argsort()


def take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """values[rows], on the values' device, and zeros where the row, on the CPU, is -1."""
    if not len(values):
        return values.new_zeros(len(rows), *values.shape[1:])
    rows = rows.to(values.device, non_blocking=True)
    return values[rows.clamp(min=0)].masked_fill_((rows < 0).view(-1, *[1] * (values.ndim - 1)), 0)


def as_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The data loader's collator: `FaceVoiceDataset` gives whole batches already."""
    return batch
