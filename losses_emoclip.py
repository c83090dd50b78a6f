"""EmoCLIP's contrastive losses: which rows of which processes are compared, and how.

    rows = {"image": LabeledRows(faces, face_labels), "audio": LabeledRows(voices, voice_labels)}
    loss = contrastive_loss(faces, voices, face_labels, voice_labels, scale)

Free functions, each of which can be read, tested and quoted alone. Shapes: B rows of a batch, N and M rows of all
processes, D the joint space.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.nn  # noqa: F401  (all_gather with gradients, reached as dist.nn)

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


def gather_rows(tensor: torch.Tensor, even: bool = False) -> torch.Tensor:
    """The rows of every process, in rank order, with gradients; processes may hold different numbers of rows.

    Args:
        tensor: (n, ...) of this process. even: n is the same in all of them, which they then need not ask each other.
    Returns:
        (N, ...), N the sum of every n; `tensor` itself in one process.
    """
    if not is_distributed():
        return tensor
    if tensor.is_floating_point():  # under autocast, a process without rows holds another dtype than the others
        tensor = tensor.float()
    sizes = [len(tensor)] * dist.get_world_size()
    if not even:
        size = torch.tensor([len(tensor)], device=tensor.device)
        gathered = [torch.zeros_like(size) for _ in sizes]
        dist.all_gather(gathered, size)
        sizes = torch.cat(gathered).tolist()
    padded = torch.cat([tensor, tensor.new_zeros(max(sizes) - len(tensor), *tensor.shape[1:])])
    if tensor.is_floating_point():
        # The backward pass is collective too: a process whose rows need no gradient must take part in it.
        parts = dist.nn.all_gather(padded if padded.requires_grad else padded.requires_grad_())
    else:
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


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

    The masks are on the device of those given: see `gather_present`.
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


def gather_present(
    embeds: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None, even: bool = False
) -> LabeledRows:
    """The rows of every process where `mask` is True, or all of them, of (B, D) embeddings and (B,) labels.

    With one process, a mask on the CPU gives the number of rows without waiting for a GPU.
    """
    if mask is None and is_distributed() and not even:  # another process may have one
        mask = torch.ones_like(labels, dtype=torch.bool)
    embeds, labels = (gather_rows(values, even) for values in (embeds, labels))
    if mask is None:
        return LabeledRows(embeds, labels)
    mask = gather_rows(mask.to(embeds.device), even) if is_distributed() else mask
    present = mask.nonzero().flatten().to(embeds.device, non_blocking=True)
    return LabeledRows(embeds[present], labels[present])
