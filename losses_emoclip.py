"""EmoCLIP's contrastive losses: which rows of which processes are compared, and how.

    rows = gather_rows({"image": LabeledRows(faces, face_labels), "audio": LabeledRows(voices, voice_labels)})
    a, b = rows["image"], rows["audio"]
    loss = contrastive_loss(a.embeds, b.embeds, a.labels, b.labels, scale)

Free functions, each of which can be read, tested and quoted alone. Shapes: B rows of a batch, N and M rows of all
processes, D the joint space.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

#: The pairs of modalities that the contrastive losses compare.
PAIRS = {"image_audio": ("image", "audio"), "image_text": ("image", "text"), "audio_text": ("audio", "text")}


def multi_positive_cross_entropy(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean negative log-probability that a row gives its positives; rows without a positive add nothing.

    The supervised contrastive loss, "out" form, of Khosla et al. (2020), equation 2. With one positive a row it is
    the ordinary cross-entropy.

    Args:
        logits: (N, M) similarities. positives: (N, M) bool, which columns match the row.
    Returns:
        The loss, a scalar; 0 if no row has a positive.
    """
    count = positives.sum(-1)  # (N,)
    log_probs = logits.log_softmax(-1).masked_fill(~positives, 0.0)
    return -(log_probs.sum(-1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def contrastive_loss(
    a_embeds: torch.Tensor, b_embeds: torch.Tensor, a_labels: torch.Tensor, b_labels: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric loss (Radford et al., 2021), with every pair of equal labels a positive.

    Args:
        a_embeds: (N, D) and b_embeds: (M, D), L2-normalised. a_labels: (N,) and b_labels: (M,). scale: scalar.
    Returns:
        The mean of the two directions' losses, a scalar.
    """
    # Similarities are scaled by up to 100, so half precision would cost the loss its last digits.
    with torch.autocast(a_embeds.device.type, enabled=False):
        logits = scale.float() * a_embeds.float() @ b_embeds.float().T  # (N, M)
        positives = a_labels[:, None] == b_labels[None, :]
        return (
            multi_positive_cross_entropy(logits, positives) + multi_positive_cross_entropy(logits.T, positives.T)
        ) / 2


class AllRows(torch.autograd.Function):
    """The rows (n, ...) of each of P processes as (P, n, ...), with gradients.

    Every process takes the same losses over the same rows, so all have the same gradient for one process's rows, and
    the sum over the processes is P times its own: nobody need ask anybody.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        processes = dist.get_world_size()
        every = rows.new_empty(processes * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(every, rows)
        return every.unflatten(0, (processes, len(rows)))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient[dist.get_rank()] * dist.get_world_size()


def is_distributed() -> bool:
    """Whether losses are taken over the rows of all processes: only in training, where there are several."""
    return torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class LabeledRows(NamedTuple):
    """The rows of all processes that have a modality."""

    embeds: torch.Tensor  # (N, D), L2-normalised
    labels: torch.Tensor  # (N,)


def modality_masks(
    embeds: dict[str, torch.Tensor], face_mask: torch.Tensor | None, voice_mask: torch.Tensor | None
) -> dict[str, torch.Tensor | None]:
    """Which of this process's rows have each modality, (B,) bool; every row with a face or a voice has a text. None
    where no masks are given, and every row has what is given at all.

    The masks are on the device of those given: see `present_rows`.
    """
    if face_mask is None and voice_mask is None:
        return dict.fromkeys(("image", "audio", "text"))
    like = next(mask for mask in (face_mask, voice_mask) if mask is not None)
    if face_mask is None or "image" not in embeds:
        face_mask = torch.full_like(like, "image" in embeds)
    if voice_mask is None or "audio" not in embeds:
        voice_mask = torch.full_like(like, "audio" in embeds)
    return {"image": face_mask, "audio": voice_mask, "text": face_mask | voice_mask}


def modality_labels(
    embeds: dict[str, torch.Tensor],
    face_labels: torch.Tensor | None,
    voice_labels: torch.Tensor | None,
    face_mask: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Labels for each modality. Labels of the faces alone, or of the voices alone, are those of the whole row; without
    any, each row has a label of its own. A text has the label of its row's face, or of the voice where there is no
    face."""
    any_embeds = next(iter(embeds.values()))
    if face_labels is None and voice_labels is None:
        face_labels = torch.arange(len(any_embeds), device=any_embeds.device)
        if is_distributed():
            face_labels += dist.get_rank() << 32  # different from those of every other process
    face_labels = voice_labels if face_labels is None else face_labels
    voice_labels = face_labels if voice_labels is None else voice_labels
    text_labels = face_labels if "image" in embeds else voice_labels
    if face_mask is not None:
        text_labels = torch.where(face_mask.to(text_labels.device, non_blocking=True), face_labels, voice_labels)
    return {"image": face_labels, "audio": voice_labels, "text": text_labels}


def present_rows(embeds: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> LabeledRows:
    """The rows of (B, D) embeddings and (B,) labels where `mask` is True, or all of them.

    A mask on the CPU gives the number of rows without waiting for a GPU.
    """
    if mask is None:
        return LabeledRows(embeds, labels)
    present = mask.nonzero().flatten().to(embeds.device, non_blocking=True)
    return LabeledRows(embeds[present], labels[present])


def gather_rows(rows: dict[str, LabeledRows], even: bool = False) -> dict[str, LabeledRows]:
    """The rows of every process for each modality, in rank order, with gradients; `rows` itself in one process.

    All of them travel at once: a process waits for the others longer than for the few numbers.

    Args:
        rows: of this process, the same modalities in the same order as in the others.
        even: of each modality as many as in any other process, which then need not ask each other.
    """
    if not is_distributed():
        return rows
    # A label is two more columns: the bits of its int64. Under autocast, processes may hold different dtypes.
    columns = ((embeds.float(), labels.long()[:, None].view(torch.float32)) for embeds, labels in rows.values())
    packed = torch.cat([torch.cat(each, 1) for each in columns])  # (R, D + 2)
    own = [len(labels) for _, labels in rows.values()]
    if even:
        sizes = [own] * dist.get_world_size()
    else:
        sizes = AllRows.apply(torch.tensor(own, device=packed.device)).tolist()
        packed = F.pad(packed, (0, 0, 0, max(map(sum, sizes)) - len(packed)))
    parts = [every[: sum(each)].split(each) for every, each in zip(AllRows.apply(packed), sizes)]
    both = {name: torch.cat(of_all) for name, of_all in zip(rows, zip(*parts))}
    return {
        name: LabeledRows(values[:, :-2], values[:, -2:].detach().contiguous().view(torch.int64)[:, 0])
        for name, values in both.items()
    }
