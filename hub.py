"""EmoCLIP and the Hub: checkpoints fetched and published, with a sentence for whatever goes wrong on the way.

    pipe = load_pipeline("me/emoclip")              # or a folder
    url = publish("outputs/emoclip-small", "me/emoclip")

The endpoint, the token and the cache are huggingface_hub's own: HF_ENDPOINT, HF_TOKEN or `hf auth login`, HF_HOME.
"""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, HfApi, RepoUrl, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from files_emoclip import LFS_POINTER

if TYPE_CHECKING:
    from pipeline_emoclip import EmotionRecognitionPipeline

logger = logging.getLogger("emoclip")

WEIGHTS = "model.safetensors"
#: What a card says in the place of its own id, as long as it has none.
THIS_REPOSITORY = "<this repository>"
#: The inputs of a card's usage snippet, published beside it in a folder of the same name.
EXAMPLES = Path(__file__).parent / "examples"
CARD_EXAMPLES = {"image": EXAMPLES / "astronaut.jpg", "audio": EXAMPLES / "reading-short.flac"}
#: What a pipeline is loaded from.
NEEDED = ("config.json", WEIGHTS, "processor_config.json", "tokenizer.json")
#: The code that travels with the weights.
CODE = "*_emoclip.py"
#: What else is published of a folder; training leaves more in its own.
PUBLISHED = (*NEEDED, "README.md", "tokenizer_config.json", "results.json", "training.json")


class HubError(ValueError):
    """What stands between a user and a model, in one sentence that says what to do."""


class UnfinishedError(HubError):
    """A folder that is not fit to be published: to try again is of no use."""


def explain(error: Exception, name: str, revision: str | None = None) -> str:
    """What an exception of huggingface_hub about the repository `name` means, and what to do, in one sentence."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):  # what went wrong first says most
        if isinstance(cause, HFValidationError):
            return f"{name!r} is neither a folder nor a Hub id, which reads owner/name."
        if isinstance(cause, GatedRepoError):
            return f"{name} is gated: agree to its terms on its page, and log in (hf auth login)."
        if isinstance(cause, RepositoryNotFoundError):
            return (
                f"{name} is neither a folder nor a repository of the Hub that can be seen: check the name; a private "
                "one needs a token that may read it (hf auth login)."
            )
        if isinstance(cause, RevisionNotFoundError):
            return f"{name} has no revision {revision}: name a branch, a tag or a commit of it."
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if status == 401:
                return "The Hub does not know the token: log in anew (hf auth login), or correct HF_TOKEN."
            if status == 403:
                return f"The token may not write to {name}: take one that may, or a name of your own."
            return f"The Hub answered {status} about {name} ({cause.server_message or 'no reason given'}): try later."
        if isinstance(cause, ValueError) and "metadata" in str(cause):
            return f"The Hub refuses the card: {' '.join(str(cause).split())}"
    reason = type(causes[-1]).__name__
    return f"For {name} the Hub cannot be reached, or the connection broke off ({reason}): check both and try again."


def fetch(source: str | os.PathLike) -> Path:
    """The folder of a checkpoint: `source` itself, or what the Hub holds under that id, which is downloaded with
    progress bars unless the cache has it.

    Args:
        source: a folder, or owner/name, or owner/name@revision for a branch, tag or commit.
    Raises:
        HubError: there is no such folder or repository, it cannot be seen or reached, it holds no weights, or pointers
            or damaged JSON in the place of its files.
    """
    folder = Path(source)
    if not folder.is_dir():
        if folder.exists() or folder.is_absolute() or str(source).startswith((".", "~")):
            raise HubError(f"There is no folder {source}.")
        name, _, revision = str(source).partition("@")
        logger.info("Getting %s from the Hub", source)
        try:
            # Its code stays where it is: what reads it is this project's own.
            patterns = ["*.safetensors", "*.json"]
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
        except Exception as error:  # huggingface_hub, the HTTP client and the system each raise their own
            raise HubError(explain(error, name, revision)) from None
    for file in ("config.json", WEIGHTS):
        if not (folder / file).is_file():
            raise HubError(f"{source} is no EmoCLIP: it holds no {file}.")
    for file in filter(Path.is_file, (folder / name for name in (*NEEDED, "tokenizer_config.json"))):
        if problem := damage(file):
            raise HubError(f"{source} cannot be loaded: its {file.name} {problem}.")
    return folder


def damage(file: Path) -> str | None:
    """What is wrong with a JSON file, and of any file whether it is one at all, in words that go on from its name."""
    with file.open("rb") as data:
        if data.read(len(LFS_POINTER)) == LFS_POINTER:
            return "is a Git LFS pointer: get the file itself, with git lfs pull"
    if file.suffix == ".json":
        try:
            json.loads(file.read_bytes())
        except ValueError:
            return "is not valid JSON, cut off or damaged: get it anew"
    return None


def load_pipeline(source: str | os.PathLike, **kwargs) -> "EmotionRecognitionPipeline":
    """The pipeline of a checkpoint, as `fetch` takes it, in float32, run by the code of this project.

    Args:
        kwargs: the pipeline's own, such as `device`.
    Raises:
        HubError: as `fetch`, or it is no EmoCLIP that can be loaded.
    """
    folder = fetch(source)
    import torch  # here, for it takes seconds, and the demo shows its page before

    from modeling_emoclip import CheckpointError, EmoCLIPForEmotionClassification
    from pipeline_emoclip import EmotionRecognitionPipeline
    from processing_emoclip import EmoCLIPProcessor

    try:
        model = EmoCLIPForEmotionClassification.from_pretrained(folder, dtype=torch.float32)
        if missing := [name for name in NEEDED if not (folder / name).is_file()]:
            raise ValueError(f"it holds no {' and no '.join(missing)}.")
        processor = EmoCLIPProcessor.from_pretrained(folder)
    except (CheckpointError, OSError, ValueError) as error:
        raise HubError(f"{source} cannot be loaded: {' '.join(str(error).split())}") from None
    except (AttributeError, KeyError, TypeError):  # what transformers raises where JSON is not of the form it expects
        raise HubError(f"{source} cannot be loaded: one of its JSON files has another form than EmoCLIP's.") from None
    return EmotionRecognitionPipeline(model=model, processor=processor, **kwargs)


def open_repository(repo_id: str, token: str | None = None, private: bool | None = None) -> RepoUrl:
    """Creates the repository where it is not there yet; asked for before a training, it shows early what would fail.

    Raises:
        HubError: the token may not write there, the Hub cannot be reached, another model lives under that name, or it
            is to be private and is not.
    """
    from configuration_emoclip import EmoCLIPConfig

    try:
        url = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True)
        is_private = HfApi(token=token).repo_info(url.repo_id).private
    except Exception as error:
        raise HubError(explain(error, repo_id)) from None
    if private and not is_private:
        raise HubError(
            f"{url.repo_id} is there already and everybody can see it: make it private in its settings, or give "
            "another name, --hub_model_id."
        )
    try:
        config = json.loads(Path(hf_hub_download(url.repo_id, "config.json", token=token)).read_text())
    except RemoteEntryNotFoundError:  # there is no model in it yet
        return url
    except Exception as error:
        raise HubError(explain(error, repo_id)) from None
    if (kind := config.get("model_type")) != EmoCLIPConfig.model_type:
        raise HubError(f"{url.repo_id} holds another model ({kind}): give a name of its own, --hub_model_id.")
    logger.info("%s is there already and gets a new commit.", url.repo_id)
    return url


def needed_code(folder: Path) -> list[str]:
    """The files that a folder's model, processor and pipeline are defined in, and all that these import of each other,
    whether they are there or not. An older folder has other files than this tree."""
    from transformers.dynamic_module_utils import get_relative_imports

    names = [f"{part}_emoclip.py" for part in ("modeling", "processing", "pipeline")]
    for name in names:  # grows on the way
        if (folder / name).is_file():
            imported = (f"{module}.py" for module in get_relative_imports(folder / name))
            names += sorted(set(imported) - set(names))
    return names


def publish(folder: str | os.PathLike, repo_id: str, token: str | None = None, private: bool | None = None) -> str:
    """Uploads a finished folder in one commit. What an upload that broke off has left there is not sent again.

    Returns:
        The commit's address.
    Raises:
        UnfinishedError: the folder lacks something, or cannot be loaded.
        HubError: the upload failed; the folder stays as it is.
    """
    folder = Path(folder)
    for name in (*NEEDED, *needed_code(folder), "README.md"):
        if not (folder / name).is_file():
            raise UnfinishedError(f"{folder} is no finished EmoCLIP: it holds no {name}.")
    try:
        load_pipeline(folder, device="cpu")
    except HubError as error:
        raise UnfinishedError(str(error)) from None
    url = open_repository(repo_id, token, private)
    files = {name: folder / name for name in PUBLISHED if (folder / name).is_file()}
    files |= {file.name: file for file in folder.glob(CODE)}
    files |= {f"examples/{file.name}": file for file in (*CARD_EXAMPLES.values(), EXAMPLES / "README.md")}
    files["README.md"] = (folder / "README.md").read_text().replace(THIS_REPOSITORY, url.repo_id).encode()
    try:
        commit = HfApi(token=token).create_commit(
            url.repo_id,
            [CommitOperationAdd(name, file) for name, file in sorted(files.items())],
            commit_message="EmoCLIP: weights, configuration, processor, code and card",
        )
    except Exception as error:
        raise HubError(explain(error, url.repo_id)) from None
    return commit.commit_url


def publish_space(folder: str | os.PathLike, repo_id: str, token: str | None = None) -> str:
    """Uploads the page of build_web.py in one commit to a static Space, which is made where it is not there yet. What
    an older page had in its folders is deleted.

    Returns:
        The Space's address.
    Raises:
        HubError: the upload failed, or another kind of Space lives under that name; the folder stays as it is.
    """
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, repo_type="space", space_sdk="static", exist_ok=True)
        kind = api.space_info(url.repo_id).sdk
    except Exception as error:
        raise HubError(explain(error, repo_id)) from None
    if kind != "static":
        raise HubError(f"{url.repo_id} is a Space of another kind ({kind}): give a name of its own.")
    try:
        api.upload_folder(
            repo_id=url.repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="EmoCLIP in the browser",
            delete_patterns=["look/*", "network/*"],
        )
    except Exception as error:
        raise HubError(explain(error, repo_id)) from None
    return str(url)
