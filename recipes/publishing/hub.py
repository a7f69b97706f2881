"""Pushes a model to the Hub: checks the rights before training, pushes one commit after it, and verifies the result.

The token is the one that the Hub's client uses (`HF_TOKEN`, or what `hf auth login` stored). It is not a setting, so
it never appears in a run's record or log.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from papers_to_gpt.engine.model_folder import EXPORT_FILE, is_export
from papers_to_gpt.publishing.clean_process import compare_probes, probe_in_clean_process
from papers_to_gpt.publishing.shared_folder import CheckedFolder, refuse_private, shared_files
from papers_to_gpt.settings.hub import RepositorySettings

logger = logging.getLogger(__name__)

# Files that may lie in a repository without belonging to a model. The Hub puts .gitattributes into every new one.
FILES_OF_ANY_REPOSITORY = frozenset((".gitattributes", ".gitignore", "LICENSE"))

HOW_TO_GET_A_TOKEN = (
    "Create a token with write access at https://huggingface.co/settings/tokens, then set HF_TOKEN to it or run "
    "`hf auth login`."
)


class HubRepository:
    """A repository on the Hub that receives one model.

    It is created before training: its constructor checks the id, the token and the token's rights, and creates the
    repository if it does not exist.

    Args:
        settings: the repository's settings. If `hub_model_id` names no user, the owner of the token is used.
        default_name: the repository's name if `hub_model_id` is not set.
        model_folder: the model to push, or the checkpoint to resume from; None if there is none yet. A repository that
            holds an earlier state of this model is accepted; one that holds anything else is refused.

    Raises:
        ValueError: if the id, the token or the repository cannot be used; the message names the setting.
        OSError: if the Hub does not answer.
    """

    def __init__(self, settings: RepositorySettings, default_name: str, model_folder: Path | None):
        self.api, self.overwrite = HfApi(), settings.overwrite_hub_repo
        self.repo_id = settings.hub_model_id or default_name
        self._upload: Future[str] | None = None
        if get_token() is None:
            raise ValueError(
                f"Pushing {self.repo_id} to the Hub requires a token, and none is set. {HOW_TO_GET_A_TOKEN}"
            )
        with explain_hub_errors(self.repo_id):
            if "/" not in self.repo_id:
                self.repo_id = f"{self.api.whoami()['name']}/{self.repo_id}"
            if self.api.repo_exists(self.repo_id):
                self._check_existing(settings, model_folder)
            else:
                self.api.create_repo(self.repo_id, private=settings.hub_private_repo)

    @property
    def url(self) -> str:
        """Returns the address of the repository for a browser."""
        return f"{self.api.endpoint}/{self.repo_id}"

    def _check_existing(self, settings: RepositorySettings, model_folder: Path | None) -> None:
        self.api.auth_check(self.repo_id, write=True)
        if settings.hub_private_repo and not self.api.model_info(self.repo_id).private:
            raise ValueError(
                f"hub_private_repo is true, but {self.repo_id} exists and is public. Make it private in its settings "
                "on the Hub, or name another repository (--hub_model_id)."
            )
        held = set(self.api.list_repo_files(self.repo_id)) - FILES_OF_ANY_REPOSITORY
        if held and not self.overwrite and not self._holds_model_of(model_folder, held):
            raise ValueError(
                f"The repository {self.repo_id} holds something else: {', '.join(sorted(held)[:5])}"
                f"{', ...' if len(held) > 5 else ''}. Name another repository (--hub_model_id), or replace its "
                "content (--overwrite_hub_repo true)."
            )

    def _holds_model_of(self, folder: Path | None, held: set[str]) -> bool:
        """Returns True if the repository has the configuration and the vocabulary of a local model or export."""
        is_exported = folder is not None and is_export(str(folder))
        names = (EXPORT_FILE if is_exported else "config.json", "tokenizer.json")
        if folder is None or not held.issuperset(names) or not all((folder / name).is_file() for name in names):
            return False
        with tempfile.TemporaryDirectory() as cache:
            there = [
                Path(self.api.hf_hub_download(self.repo_id, name, cache_dir=cache)).read_bytes() for name in names
            ]
        here = [(folder / name).read_bytes() for name in names]
        configs = [json.loads(content) for content in (there[0], here[0])]
        for config in configs:
            config.pop("compared" if is_exported else "transformers_version", None)
        return configs[0] == configs[1] and there[1] == here[1]

    def push(self, folder: Path, message: str) -> str:
        """Pushes a folder's shared files to the Hub in one commit, so that they become visible all at once.

        Large files are uploaded before the commit that refers to them. A push after an interruption skips those that
        are already on the Hub.

        Args:
            folder: the folder of the model.
            message: the message of the commit.

        Returns:
            The commit's hash.

        Raises:
            ValueError: if a file holds something private, or the token or its rights do not suffice.
            OSError: if the Hub does not accept the files.
        """
        files = shared_files(folder)
        refuse_private(folder, files)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        with explain_hub_errors(self.repo_id):
            if self.overwrite:
                held = self.api.list_repo_files(self.repo_id)
                operations += [
                    CommitOperationDelete(path_in_repo=name)
                    for name in sorted(set(held) - set(files) - FILES_OF_ANY_REPOSITORY)
                ]
            return self.api.create_commit(self.repo_id, operations, commit_message=message).oid

    def verify(self, checked: CheckedFolder, commit: str) -> None:
        """Downloads a commit into an empty cache in a clean process and compares the model with the local one.

        Args:
            checked: the local model.
            commit: the hash that `push` returned.

        Raises:
            ValueError: if the downloaded model does not load there, or computes something else.
        """
        (downloaded,) = probe_in_clean_process([self.repo_id], checked.hidden_packages, revision=commit)
        compare_probes(downloaded, checked.probe, f"{self.repo_id}, downloaded again")

    def push_in_background(self, checkpoint: Path) -> None:
        """Starts pushing a checkpoint's model, unless an earlier push is still running; a failure is a warning."""
        if self._upload is not None and not self._upload.done():
            return
        self.finish_uploads()
        # Training may remove the checkpoint during the upload. Its files are never rewritten, so hard links to them
        # keep their content.
        copy = checkpoint.parent / "upload"
        shutil.rmtree(copy, ignore_errors=True)  # a killed run may have left one
        for name, path in shared_files(checkpoint).items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy / name)
            except OSError:  # this file system has no hard links
                shutil.copy2(path, copy / name)
        disable_progress_bars()
        self._upload = self.api.run_as_future(self._push_and_remove, copy, checkpoint.name)

    def _push_and_remove(self, copy: Path, message: str) -> str:
        try:
            return self.push(copy, message)
        finally:
            shutil.rmtree(copy)

    def finish_uploads(self) -> None:
        """Waits for a running push, if there is one, and warns if it failed."""
        if self._upload is not None and (error := self._upload.exception()) is not None:
            logger.warning("A checkpoint was not pushed to %s: %s", self.repo_id, error)
        self._upload = None


@contextmanager
def explain_hub_errors(repo_id: str) -> Iterator[None]:
    """Turns the client's errors into a ValueError or an OSError that says what the user can do.

    Args:
        repo_id: the repository that the message names.

    Raises:
        ValueError: if the user can correct the cause: the id, the token, its rights or the offline mode.
        OSError: if the Hub or the network failed.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"Pushing {repo_id} requires the network, but HF_HUB_OFFLINE is set. Unset it.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"The Hub has no repository {repo_id}, or this token may not see it. Correct hub_model_id, or use a token "
            f"of its owner. {HOW_TO_GET_A_TOKEN}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ValueError(
                f"The Hub does not know the token for {repo_id}: it is mistyped, expired or revoked. "
                f"{HOW_TO_GET_A_TOKEN}"
            ) from error
        if status == 403:
            reason = f" ({error.server_message})" if error.server_message else ""
            raise ValueError(
                f"The token may not write to {repo_id}{reason}. Give hub_model_id a user or an organisation that you "
                f"may write to, or use another token. {HOW_TO_GET_A_TOKEN}"
            ) from error
        raise OSError(f"The Hub did not accept {repo_id}: {error}") from error
    except HTTPError as error:
        raise OSError(f"The Hub cannot be reached for {repo_id}: {error}") from error
    except RuntimeError as error:
        # The client raises RuntimeError when the upload of a large file fails.
        raise OSError(
            f"The upload to {repo_id} broke off: {error} {error.__cause__ or ''} None of it is visible on the Hub. "
            "Push again: files that were uploaded completely are not sent twice."
        ) from error
