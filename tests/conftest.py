"""Fixtures that every test file shares."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of a saved model and processor: the embedded one, or an untrained one where that is not there."""
    embedded = ROOT / "checkpoints" / "emoclip-small"
    if (embedded / "model.safetensors").is_file():
        return embedded
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from configuration_emoclip import EmoCLIPConfig
    from modeling_emoclip import EmoCLIPForEmotionClassification
    from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPImageProcessor, EmoCLIPProcessor

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    EmoCLIPForEmotionClassification(EmoCLIPConfig()).save_pretrained(folder)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["a happy face", "a sad voice"], vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=32
    )
    EmoCLIPProcessor(EmoCLIPImageProcessor(), EmoCLIPFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
