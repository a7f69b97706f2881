"""A model's way to the Hub: rights before training, one commit after it, and what came out at the other end.

The token is the client's own (`HF_TOKEN`, or what `hf auth login` stored). It is no setting, so no record of a run and
no log ever has it.
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

from papers_to_gpt.publishing.fresh_process import compare_computed, computed_elsewhere
from papers_to_gpt.publishing.shared_folder import CheckedFolder, refuse_private, shared_files
from papers_to_gpt.settings.hub import RepositorySettings

logger = logging.getLogger(__name__)

# A new repository has the first; the others say nothing about the model.
FILES_OF_ANY_REPOSITORY = frozenset((".gitattributes", ".gitignore", "LICENSE"))

HOW_TO_GET_A_TOKEN = (
    "Make a token with write access at https://huggingface.co/settings/tokens, and set HF_TOKEN to it or run "
    "`hf auth login`."
)


class HubRepository:
    """A repository of the Hub that takes one model.

    Made before training, it finds out all that may be wrong with the id, the token and its rights, and makes the
    repository if there is none.

    Args:
        settings: the id may leave out the user, which is then the token's.
        default_name: stands for an id that is not set.
        model_folder: the model to be pushed, as far as there is one yet (to resume from, or to share). A repository
            that holds an earlier state of it is gone on with; one that holds anything else is refused.

    Raises:
        ValueError: names the setting and what to do.
        OSError: if the Hub does not answer.
    """

    def __init__(self, settings: RepositorySettings, default_name: str, model_folder: Path | None):
        self.api, self.overwrite = HfApi(), settings.overwrite_hub_repo
        self.repo_id = settings.hub_model_id or default_name
        self._upload: Future[str] | None = None
        if get_token() is None:
            raise ValueError(
                f"To push {self.repo_id} to the Hub takes a token, and there is none. {HOW_TO_GET_A_TOKEN}"
            )
        with explained(self.repo_id):
            if "/" not in self.repo_id:
                self.repo_id = f"{self.api.whoami()['name']}/{self.repo_id}"
            if self.api.repo_exists(self.repo_id):
                self._check_existing(settings, model_folder)
            else:
                self.api.create_repo(self.repo_id, private=settings.hub_private_repo)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"{self.api.endpoint}/{self.repo_id}"

    def _check_existing(self, settings: RepositorySettings, model_folder: Path | None) -> None:
        self.api.auth_check(self.repo_id, write=True)
        if settings.hub_private_repo and not self.api.model_info(self.repo_id).private:
            raise ValueError(
                f"hub_private_repo is true, but {self.repo_id} exists and everybody sees it. Make it private in its "
                "settings on the Hub, or name another (--hub_model_id)."
            )
        held = set(self.api.list_repo_files(self.repo_id)) - FILES_OF_ANY_REPOSITORY
        if held and not self.overwrite and not self._holds_model_of(model_folder, held):
            raise ValueError(
                f"The repository {self.repo_id} holds something else: {', '.join(sorted(held)[:5])}"
                f"{', ...' if len(held) > 5 else ''}. Name another (--hub_model_id), or replace what it holds "
                "(--overwrite_hub_repo true)."
            )

    def _holds_model_of(self, folder: Path | None, held: set[str]) -> bool:
        """Whether the repository has the configuration and the vocabulary of a local model."""
        names = ("config.json", "tokenizer.json")
        if folder is None or not held.issuperset(names) or not all((folder / name).is_file() for name in names):
            return False
        with tempfile.TemporaryDirectory() as cache:
            there = [
                Path(self.api.hf_hub_download(self.repo_id, name, cache_dir=cache)).read_bytes() for name in names
            ]
        here = [(folder / name).read_bytes() for name in names]
        configs = [json.loads(content) for content in (there[0], here[0])]
        for config in configs:
            config.pop("transformers_version", None)
        return configs[0] == configs[1] and there[1] == here[1]

    def push(self, folder: Path, message: str) -> str:
        """Puts a folder's shared files on the Hub in one commit; nobody sees part of them.

        Large files go up before the commit that refers to them. After an interruption those that are there already
        are not sent again.

        Returns:
            The commit's hash.

        Raises:
            ValueError: if a file holds what must not be shared; or for what is wrong with the token and its rights.
            OSError: if the Hub does not take it.
        """
        files = shared_files(folder)
        refuse_private(folder, files)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        with explained(self.repo_id):
            if self.overwrite:
                held = self.api.list_repo_files(self.repo_id)
                operations += [
                    CommitOperationDelete(path_in_repo=name)
                    for name in sorted(set(held) - set(files) - FILES_OF_ANY_REPOSITORY)
                ]
            return self.api.create_commit(self.repo_id, operations, commit_message=message).oid

    def verify(self, checked: CheckedFolder, commit: str) -> None:
        """Downloads a commit into an empty cache, in a process without our packages, and compares with the folder.

        Raises:
            ValueError: if it does not load there, or computes something else.
        """
        (downloaded,) = computed_elsewhere([self.repo_id], checked.hidden_packages, revision=commit)
        compare_computed(downloaded, checked.computed, f"{self.repo_id}, downloaded again")

    def push_in_background(self, checkpoint: Path) -> None:
        """Starts to push a checkpoint's model, unless an earlier one is still on its way; a failure is a warning."""
        if self._upload is not None and not self._upload.done():
            return
        self.finish_uploads()
        # The checkpoint may be removed meanwhile. Its files are never written again, so links hold what they hold now.
        copy = checkpoint.parent / "upload"
        shutil.rmtree(copy, ignore_errors=True)  # of a run that was killed
        for name, path in shared_files(checkpoint).items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy / name)
            except OSError:  # a file system without links
                shutil.copy2(path, copy / name)
        disable_progress_bars()
        self._upload = self.api.run_as_future(self._push_and_remove, copy, checkpoint.name)

    def _push_and_remove(self, copy: Path, message: str) -> str:
        try:
            return self.push(copy, message)
        finally:
            shutil.rmtree(copy)

    def finish_uploads(self) -> None:
        """Waits for the push that is on its way, if any, and warns if it failed."""
        if self._upload is not None and (error := self._upload.exception()) is not None:
            logger.warning("A checkpoint was not pushed to %s: %s", self.repo_id, error)
        self._upload = None


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Says of the client's errors what a user can do about them, as ValueError or OSError."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"To push {repo_id} takes the network, but HF_HUB_OFFLINE is set. Unset it.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"The Hub has no repository {repo_id}, or hides it from this token.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ValueError(
                f"The Hub does not know the token that {repo_id} was to be pushed with: it is mistyped, expired or "
                f"revoked. {HOW_TO_GET_A_TOKEN}"
            ) from error
        if status == 403:
            reason = f" ({error.server_message})" if error.server_message else ""
            raise ValueError(
                f"The token may not write to {repo_id}{reason}. Give hub_model_id a user or an "
                f"organisation that is yours, or use another token. {HOW_TO_GET_A_TOKEN}"
            ) from error
        raise OSError(f"The Hub did not take {repo_id}: {error}") from error
    except HTTPError as error:
        raise OSError(f"The Hub cannot be reached for {repo_id}: {error}") from error
    except RuntimeError as error:
        # So the client reports a large file that did not get through.
        raise OSError(
            f"The upload to {repo_id} broke off: {error} {error.__cause__ or ''} Nobody sees any of it; files "
            "that are there already are not sent again."
        ) from error
