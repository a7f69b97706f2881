"""Output of many lines that is written group by group, and that an interrupted command continues when it is repeated.

A group of lines goes to NAME.partial, which is flushed to the disk; then the record NAME.resume is replaced. The
record holds the number of finished lines, and the model and settings that wrote them. A repeated command compares
these with its own, removes what was written after the last record, and continues with the next group. The finished
file equals that of an uninterrupted run. A compressed file has one gzip member, xz stream or zstandard frame for each
group.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papers_to_gpt.engine.data_fingerprint import fingerprint_files
from papers_to_gpt.engine.durable_files import REMEDIES, WriteError, flush_file, flush_folder, write_durably
from papers_to_gpt.settings.wording import counted

PARTIAL = ".partial"
RECORD = ".resume"  # of JSON, but not called so: a folder of training data may hold it
LOCK = ".resume.lock"

# Parts of a configuration that say where a model came from, not what it computes.
ORIGINS = ("_name_or_path", "transformers_version")


def fingerprint_model(model: PreTrainedModel, *tokenizers: PreTrainedTokenizerBase) -> dict[str, str]:
    """Returns a hash of a model's weights, one of its configurations and one of its tokenizers, by these names."""
    weights = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    configurations = [
        config.to_dict() for config in (model.config, getattr(model, "generation_config", None)) if config is not None
    ]
    kept = [{name: value for name, value in each.items() if name not in ORIGINS} for each in configurations]
    parts = {
        "configuration": json.dumps(kept, sort_keys=True, default=str),
        "tokenizer": "".join(map(_content_of_tokenizer, tokenizers)),
    }
    hashes = {name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for name, text in parts.items()}
    return {"weights of the model": weights.hexdigest()} | {
        f"{name} of the model": digest for name, digest in hashes.items()
    }


def _content_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)  # tokenizers written in Python have none
    return json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()


@dataclass
class Progress:
    """How much of an output is done.

    Attributes:
        lines: number of lines of the input that are done.
        place: the position in the input at which reading continues: the fields of a `FilePlace`.
        totals: numbers that are summed up over the lines.
        size: bytes of the partial file.
        is_finished: True if no line of the input is left.
    """

    lines: int = 0
    place: dict[str, int] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    size: int = 0
    is_finished: bool = False


class LineOutput:
    """Text that is written in groups of lines to a stream, which is flushed after each group."""

    def __init__(self, stream: TextIO):
        self.progress = Progress()
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text)

    def end_group(
        self, lines: int, place: Mapping[str, int] | None = None, totals: Mapping[str, float] | None = None
    ) -> None:
        """Says that what was written belongs to the first lines of the input.

        Args:
            lines: number of lines that are done, from the beginning.
            place: the position at which reading continues: the fields of a `FilePlace`.
            totals: numbers that are summed up over the lines; a repeated command finds them in `progress`.
        """
        self._stream.flush()
        self.progress = Progress(lines, dict(place or {}), dict(totals or {}))


class _ResumableFile(LineOutput):
    """A partial file with its record."""

    def __init__(self, target: Path, made_with: Mapping[str, Any]):
        super().__init__(io.StringIO())
        self.target = target
        self.partial = target.with_name(target.name + PARTIAL)
        self.record = target.with_name(target.name + RECORD)
        self.made_with = json.loads(json.dumps(made_with))  # as they come out of the record

    def begin(self, resume: bool | None) -> None:
        """Finds out what is done.

        Raises:
            ValueError: if the partial file cannot be continued, or `resume` does not say whether it is to be.
        """
        recorded = self._read_record()
        if recorded is None:
            if self.partial.exists():
                raise ValueError(
                    f"{self.partial} is there, but its record {self.record} is not, so it cannot be continued. "
                    "Remove or rename it."
                )
            # Without a record, a file under the final name is whole.
            self.progress.is_finished = bool(resume) and self.target.exists()
            return
        progress, made_with = recorded
        finished = progress.is_finished and not self.partial.exists()
        if progress.lines == 0 or (finished and not (resume and self.target.exists())):
            return
        done = f"{counted(progress.lines, 'line')} of an interrupted command"
        if resume is None:
            raise ValueError(
                f"The output file {self.target} was begun: {self.partial} has {done}. Set --resume true to continue, "
                "or --resume false to begin anew, which removes them."
            )
        if not resume:
            print(f"{self.partial}, with {done}, is removed (resume is false).", file=sys.stderr)
            return
        self._check_same(made_with)
        if not finished:
            self._check_size(progress.size)
            print(f"{self.partial} has {done}; this one continues there.", file=sys.stderr)
        self.progress = progress

    def open(self) -> None:
        """Begins the partial file, or cuts off what was written behind the last record."""
        if self.progress.lines == 0:
            self._write_record()  # before the partial file: a file without a record is not ours
            self.partial.unlink(missing_ok=True)
        with open(self.partial, "ab") as file:
            file.truncate(self.progress.size)

    def end_group(
        self, lines: int, place: Mapping[str, int] | None = None, totals: Mapping[str, float] | None = None
    ) -> None:
        text = self._stream.getvalue()
        self._stream = io.StringIO()
        size = self.progress.size
        if text:
            with open(self.partial, "ab") as file:
                file.write(_compress(text.encode("utf-8"), self.target.suffix.lower()))
                file.flush()
                size = file.tell()
            flush_file(self.partial)
        self.progress = Progress(lines, dict(place or {}), dict(totals or {}), size)
        self._write_record()

    def finish(self, keep_record: bool, convert: Callable[[Path, Path], None] | None) -> None:
        """Gives the file its final name.

        Args:
            keep_record: True to keep the record, by which a command that is repeated once more finds that it is done.
            convert: None, or a function that writes the final content, its second argument, from the partial file.
        """
        self.progress.is_finished = True
        self._write_record()
        complete = self.partial
        if convert is not None:
            complete = self.target.with_name(f"{self.target.name}.converted{PARTIAL}")
            convert(self.partial, complete)
            flush_file(complete)
        if self.target.exists():
            shutil.copymode(self.target, complete)
        os.replace(complete, self.target)
        self.partial.unlink(missing_ok=True)
        flush_folder(self.target.parent)
        if not keep_record:
            self.record.unlink(missing_ok=True)

    def leave(self) -> None:
        """Says what an interrupted command leaves; without a finished group it leaves nothing."""
        if self.progress.lines:
            print(
                f"{self.partial} has {counted(self.progress.lines, 'finished line')}. The same command with --resume "
                "true continues.",
                file=sys.stderr,
            )
        else:
            self.partial.unlink(missing_ok=True)
            self.record.unlink(missing_ok=True)

    def _write_record(self) -> None:
        content = {**asdict(self.progress), "made_with": self.made_with}
        write_durably(self.record, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _read_record(self) -> tuple[Progress, dict[str, Any]] | None:
        if not self.record.exists():
            return None
        try:
            content = json.loads(self.record.read_text(encoding="utf-8"))
            made_with = dict(content.pop("made_with"))
            return Progress(**content), made_with
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.record} is damaged, so {self.partial} cannot be continued. Remove both to begin anew."
            ) from error

    def _check_same(self, made_with: Mapping[str, Any]) -> None:
        names = [name for name in {**made_with, **self.made_with} if made_with.get(name) != self.made_with.get(name)]
        if names:
            changed = "; ".join(f"{name} was {made_with.get(name)}, is {self.made_with.get(name)}" for name in names)
            raise ValueError(
                f"The output file {self.target} was made by another command, which this one cannot continue: "
                f"{changed}. Restore it, set --resume false to begin anew, or name another output_file."
            )

    def _check_size(self, size: int) -> None:
        found = self.partial.stat().st_size if self.partial.exists() else None
        if found is None or found < size:
            has = "is gone" if found is None else f"has {found:,} bytes"
            raise ValueError(
                f"{self.partial} {has}, but {size:,} bytes were written to it. Restore it, or set --resume false to "
                "begin anew."
            )


def _compress(content: bytes, suffix: str) -> bytes:
    """Compresses a group by itself, to bytes that depend on nothing else."""
    if suffix == ".gz":
        return gzip.compress(content, mtime=0)
    if suffix == ".xz":
        return lzma.compress(content)
    if suffix == ".zst":
        import pyarrow  # slow, and few files are compressed

        return pyarrow.compress(content, codec="zstd", asbytes=True)
    return content


@contextlib.contextmanager
def open_line_output(
    input_file: str | None,
    output_file: str | None,
    resume: bool | None,
    made_with: Callable[[], Mapping[str, Any]],
    otherwise: Callable[[str | None], AbstractContextManager[TextIO]],
    convert: Callable[[Path, Path], None] | None = None,
) -> Iterator[LineOutput]:
    """Opens the output of a command that answers the lines of an input.

    From one file to another, the output is resumable. Its `progress` is what an earlier command has done: the caller
    reads on at its `place`, and writes nothing if it `is_finished`, which has been said then.

    Args:
        input_file: the input; None for standard input.
        output_file: the output; None for standard output.
        resume: True to continue what an interrupted command left, False to begin anew, None to refuse if there is any.
        made_with: is called for what decides the content of the output, besides the input: names and values.
        otherwise: opens an output that is not resumable, by its name.
        convert: see `_ResumableFile.finish`; only for an output that is always a file.

    Raises:
        ValueError: the input or output cannot be resumed; what an earlier command left belongs to another model, other
            settings or another input, is damaged, or is there although `resume` is None; another command is writing
            the same file; or the file cannot be written.
    """
    source = Path(input_file or "")
    target = None if output_file is None else Path(os.path.realpath(output_file))  # a link is kept
    is_device = target is not None and target.exists() and not target.is_file()
    if target is None or is_device or not target.parent.is_dir() or not source.is_file():
        if (resume or convert) and (is_device or (source.exists() and not source.is_file())):
            named = f"output_file is {output_file}" if is_device else f"input_file is {input_file}"
            if resume:
                raise ValueError(f"resume is true, but {named}, which is not a regular file. Leave resume out.")
            raise ValueError(
                f"{named}, which is not a regular file, but a {target.suffix} file is made from one file to another. "
                "Name a regular file, or an output_file of lines."
            )
        with otherwise(output_file) as stream:
            yield LineOutput(stream)
        return
    try:
        with _locked(target):
            file = _ResumableFile(target, {"input_file": fingerprint_files(str(source))} | dict(made_with()))
            file.begin(resume)
            if file.progress.is_finished and not file.partial.exists():
                print(f"{output_file} is finished. To write it again, set --resume false.", file=sys.stderr)
                yield file
                return
            file.open()
            try:
                yield file
            except BaseException:
                file.leave()
                raise
            file.finish(bool(resume), convert)
    except (OSError, WriteError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        ours = isinstance(error, WriteError) or Path(str(error.filename or "")).name.startswith(target.name)
        if not ours and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        reason = getattr(cause, "strerror", None) or cause
        number = getattr(cause, "errno", None)
        remedy = f"{REMEDIES[number]}, or name" if number in REMEDIES else "Name"
        raise ValueError(
            f"The output file {output_file} cannot be written: {reason}. {remedy} another file."
        ) from error


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keeps a second command from writing the same file; a dead one does not hold the lock."""
    lock = FileLock(target.with_name(target.name + LOCK), fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        raise ValueError(
            f"Another command is writing {target}. Wait until it ends, or name another output_file."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        yield  # the file system has no locks
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
