"""Pushing an exported folder to the Hugging Face Hub."""

import re
from pathlib import Path

from lit_g2rpo.errors import UserError


def check_push(name: str) -> None:
    """Refuse a push that cannot succeed, before the export runs.

    Args:
        name: ``owner/name`` of the repository.

    Raises:
        UserError: if the name is not valid, there is no token, or the Hub does not accept it.
    """
    from huggingface_hub import HfApi, get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push is {name!r}; give owner/name, such as me/my-policy")
    if get_token() is None:
        raise UserError(f"--push {name} needs a token: run hf auth login, or set HF_TOKEN")
    try:
        user = HfApi().whoami()
    # a refused token, a missing network and a server error each come from a different package
    except Exception as error:
        raise UserError(f"--push {name}: cannot log in to the Hub ({_first_line(error)})") from error
    owner = name.partition("/")[0]
    if owner not in (owners := [user["name"], *(group["name"] for group in user.get("orgs", []))]):
        raise UserError(f"--push {name}: the token is of {user['name']}; it can push to {', '.join(owners)}")


def push(folder: Path, name: str, private: bool | None) -> str:
    """Upload a folder as one commit, to a repository that is created if necessary.

    Args:
        folder: an exported policy.
        name: ``owner/name`` of the repository.
        private: whether a new repository is private; None to use its owner's settings.

    Returns:
        The URL of the repository.

    Raises:
        UserError: if the upload fails; the folder is kept.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload the policy")
    # as above
    except Exception as error:
        raise UserError(
            f"--push {name} failed ({_first_line(error)}); {folder} is complete, try again: hf upload {name} {folder}"
        ) from error
    return str(address)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
