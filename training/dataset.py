"""Faces, voices and prompts as rows and batches, and batches as the model's inputs.

    train = FaceVoiceDataset(faces.train, voices.train, processor.feature_extractor, prompts)

Shapes in the comments: B rows of a batch, R rows of an epoch, C classes, L tokens.
"""

from typing import Literal

import torch
from datasets import Dataset

from configuration_emoclip import LABELS
from processing_emoclip import EmoCLIPProcessor, VoiceExtractor
from training.augmentation import augment_faces
from training.labels import vote_targets
from training.sources import FACE_SIZE
from training.voice_augmentation import augment_voices

Head = Literal["face", "voice"]
HEADS: tuple[Head, ...] = ("face", "voice")
#: Faces and voices that are larger together, as recordings may be, stay in the CPU's memory.
MAX_ON_DEVICE = 2**30  # bytes


def to_tensors(
    dataset: Dataset | None, column: str, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """A binary column as (n, *shape), and the labels (n,); both empty without a dataset."""
    if not dataset:
        return torch.empty(0, *shape, dtype=dtype), torch.empty(0, dtype=torch.long)
    data = torch.frombuffer(bytearray(b"".join(dataset[column])), dtype=dtype)
    return data.view(-1, *shape), torch.tensor(dataset["label"])


def face_tensors(faces: Dataset | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The faces of `load_faces`, (n, 48, 48) uint8, and their labels (n,)."""
    return to_tensors(faces, "pixels", (FACE_SIZE, FACE_SIZE), torch.uint8)


def voice_tensors(voices: Dataset | None, extractor: VoiceExtractor) -> tuple[torch.Tensor, torch.Tensor]:
    """The voices of `load_voices` as the extractor stores them, (n, *stored_shape), and their labels (n,)."""
    return to_tensors(voices, "voice", extractor.stored_shape, extractor.stored_dtype)


class FaceVoiceDataset(torch.utils.data.Dataset):
    """Rows with a face, a voice, or both of the same label, and a prompt for that label: for evaluation, and what
    `TrainingDataset` is made from.

    FER-2013 and CREMA-D share no people, so a pair can only mean that the emotions are equal. Every epoch has new
    rows, drawn by `draw_rows` from the seed and the epoch alone. They are in random order already: read them in order.

    Args:
        faces, voices: in the one form, or None.
        extractor: the one that the voices were loaded for.
        prompts: for each of LABELS, the token ids (n, L) of its prompts, and then perhaps those of prompts without an
            emotion; None for rows without text.
        seed: of the rows and prompts.
        device: where the data are held and batches are put together; the CPU where they exceed MAX_ON_DEVICE.
    """

    def __init__(
        self,
        faces: Dataset | None,
        voices: Dataset | None,
        extractor: VoiceExtractor,
        prompts: list[torch.Tensor] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        pixels, self.face_labels = face_tensors(faces)
        stored_voices, self.voice_labels = voice_tensors(voices, extractor)
        self.device = device if pixels.nbytes + stored_voices.nbytes <= MAX_ON_DEVICE else "cpu"
        self.faces, self.voices = pixels.to(self.device), stored_voices.to(self.device)
        self.face_votes = vote_targets(faces, self.face_labels).to(self.device)
        self.voice_votes = vote_targets(voices, self.voice_labels).to(self.device)
        self.prompt_counts = None
        if prompts is not None:
            self.prompt_counts = torch.tensor([len(p) for p in prompts])
            padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)  # (C, most prompts of a label, L)
            self.prompts = padded.to(self.device)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Draws the epoch's rows; the data loader calls it. Their number is the same in every epoch."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        self.face_rows, self.voice_rows = draw_rows(self.face_labels, self.voice_labels, generator)
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
        """A whole batch at once, as the data loader asks for it.

        Returns:
            `faces` (B, 48, 48) uint8 and `voices` (B, *stored_shape), zeros in a row without one; `face_labels` and
            `voice_labels` (B,); `face_votes` and `voice_votes` (B, C), what people voted as probabilities;
            `face_mask` and `voice_mask` (B,) bool; `input_ids` (B, L), where there are prompts. All lie on the
            dataset's device, but the masks on the CPU: see the model's forward.
        """
        indices = torch.as_tensor(indices)
        face_rows, voice_rows, labels = self.face_rows[indices], self.voice_rows[indices], self.row_labels[indices]
        device_labels = labels.to(self.device, non_blocking=True)
        batch = {
            "faces": take(self.faces, face_rows),
            "voices": take(self.voices, voice_rows),
            "face_labels": device_labels,
            "voice_labels": device_labels,
            "face_votes": take(self.face_votes, face_rows),
            "voice_votes": take(self.voice_votes, voice_rows),
            "face_mask": face_rows >= 0,
            "voice_mask": voice_rows >= 0,
        }
        if self.prompt_counts is not None:
            prompts = labels * self.prompts.shape[1] + self.prompt_rows[indices]
            batch["input_ids"] = self.prompts.flatten(0, 1)[prompts.to(self.device, non_blocking=True)]
        return batch


class TrainingDataset(FaceVoiceDataset):
    """Faces and as many prompts, and beside them voices, in batches of always as many faces and as many voices.

    Training needs no pairs: its losses go by labels. The faces come in random order, all of them before any comes
    again, and so do the voices, drawn from the seed alone; an epoch is as many whole batches as the faces are enough
    for, and the next epoch goes on where it ended. Prompts are of every emotion, and of none, equally often: words for
    a rare emotion are not rare. Item i is the epoch's i-th face: read them in order and by batches.

    Args:
        batch_size: faces of a batch. processes: that take turns with the batches.
        voices_per_epoch: beside as many faces as there are; None for every voice once.
    """

    def __init__(self, *args, batch_size: int, processes: int = 1, voices_per_epoch: int | None = None, **kwargs):
        self.batch_size, self.processes, self.voices_per_epoch = batch_size, processes, voices_per_epoch
        super().__init__(*args, **kwargs)

    def set_epoch(self, epoch: int):
        faces, voices = len(self.faces), len(self.voices)
        per_epoch = voices if self.voices_per_epoch is None else self.voices_per_epoch
        self.batch_voices = max(2, round(self.batch_size * per_epoch / faces))  # batch norm needs two
        batches = max(1, faces // (self.batch_size * self.processes)) * self.processes
        self.face_rows, self.voice_rows = (
            endless_order(count, epoch * batches * each, batches * each, self.seed * 2 + which)
            for which, (count, each) in enumerate(((faces, self.batch_size), (voices, self.batch_voices)))
        )
        if self.prompt_counts is not None:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
            self.prompt_classes = torch.randint(len(self.prompt_counts), (len(self),), generator=generator)
            draws = torch.rand(len(self), generator=generator)
            self.prompt_rows = (draws * self.prompt_counts[self.prompt_classes]).long()

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A batch of F faces and V voices, as `FaceVoiceDataset` gives it but without masks: `faces`,
        `face_labels` and `face_votes` have F rows, `voices`, `voice_labels` and `voice_votes` V. `input_ids`
        are F prompts, and `text_labels` their classes, -1 for one that speaks of no emotion."""
        number = indices[0] // self.batch_size
        voice_rows = self.voice_rows[number * self.batch_voices :][: self.batch_voices]
        batch = {}
        for head, rows in (("face", self.face_rows[indices]), ("voice", voice_rows)):
            on_device = rows.to(self.device, non_blocking=True)
            batch[f"{head}s"] = getattr(self, f"{head}s")[on_device]
            batch[f"{head}_labels"] = getattr(self, f"{head}_labels")[rows].to(self.device, non_blocking=True)
            batch[f"{head}_votes"] = getattr(self, f"{head}_votes")[on_device]
        if self.prompt_counts is not None:
            classes = self.prompt_classes[indices]
            prompts = classes * self.prompts.shape[1] + self.prompt_rows[indices]
            batch["input_ids"] = self.prompts.flatten(0, 1)[prompts.to(self.device, non_blocking=True)]
            text_labels = torch.where(classes < len(LABELS), classes, -1)
            batch["text_labels"] = text_labels.to(self.device, non_blocking=True)
        return batch


def endless_order(size: int, start: int, count: int, seed: int) -> torch.Tensor:
    """`count` indices below `size` from place `start` of an endless sequence: one random order of all of them after
    another, each from the seed and its number."""
    numbers = range(start // size, -(-(start + count) // size))
    orders = [torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + n)) for n in numbers]
    return torch.cat(orders)[start % size :][:count]


def draw_rows(
    face_labels: torch.Tensor, voice_labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """An epoch's rows in stratified random order: each one's face and voice.

    Every face is in one row. Every voice joins a face of its label; the voices of a label that has too few faces are
    in rows of their own.

    Args:
        face_labels: (F,). voice_labels: (V,).
    Returns:
        Indices of the faces and of the voices, (R,) each, -1 in a row without one.
    """
    face_rows, voice_rows = [torch.arange(len(face_labels))], [torch.full((len(face_labels),), -1)]
    for label in range(len(LABELS)):
        faces = (face_labels == label).nonzero().flatten()
        voices = (voice_labels == label).nonzero().flatten()
        drawn = voices[torch.randperm(len(voices), generator=generator)]
        chosen = faces[torch.randperm(len(faces), generator=generator)[: len(voices)]]
        voice_rows[0][chosen] = drawn[: len(chosen)]
        voice_rows.append(drawn[len(chosen) :])
        face_rows.append(torch.full((len(drawn) - len(chosen),), -1))
    face_rows, voice_rows = torch.cat(face_rows), torch.cat(voice_rows)
    order = stratified_order((face_rows >= 0).long() + 2 * (voice_rows >= 0), generator)
    return face_rows[order], voice_rows[order]


def stratified_order(kinds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random order (n,) in which every part, such as a batch, has about the same share of each of `kinds` (n,).

    The contrastive losses of an evaluation are those within its batches: each compares about as many faces with as
    many voices.
    """
    places = torch.empty(len(kinds), dtype=torch.float64)
    for kind in kinds.unique():
        members = (kinds == kind).nonzero().flatten()
        ranks = torch.randperm(len(members), generator=generator)
        places[members] = (ranks + torch.rand(1, generator=generator)).double() / len(members)
    return places.argsort()


def take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """values[rows] on the values' device, with zeros for a row of -1; the rows lie on the CPU."""
    if not len(values):
        return values.new_zeros(len(rows), *values.shape[1:])
    rows = rows.to(values.device, non_blocking=True)
    return values[rows.clamp(min=0)].masked_fill_((rows < 0).view(-1, *[1] * (values.ndim - 1)), 0)


def as_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The data loader's collator: `FaceVoiceDataset` gives whole batches already."""
    return batch


def to_model_input(
    processor: EmoCLIPProcessor, head: Head, stored: torch.Tensor, augment: bool = False
) -> tuple[str, torch.Tensor]:
    """Stored faces (B, 48, 48) or voices (B, *stored_shape) as the model takes them, with or without augmentation.

    Returns:
        The name of the model's argument, and its value (B, ...).
    """
    if head == "voice":
        extractor = processor.feature_extractor
        return extractor.input_name, augment_voices(extractor, stored) if augment else extractor.decode(stored)
    image_processor = processor.image_processor
    if augment:
        return "pixel_values", image_processor.standardize(augment_faces(stored, image_processor.side))
    return "pixel_values", image_processor(list(stored[:, None]), return_tensors="pt").pixel_values
