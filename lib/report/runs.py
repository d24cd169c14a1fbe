"""Runs of the past: what a commit or an experiment of DVC holds, from Git and from DVC's cache, without a checkout."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lib.core.errors import UserError

WORKSPACE = "workspace"
# Of revisions: what Git allows in names and in expressions such as `HEAD~2`, and nothing that begins an option.
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@{}^~+-]{0,199}")
DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Run:
    """A state of the project, in the working folder: a commit, or what lies there now, where `commit` is None."""

    name: str
    commit: str | None

    def text(self, path: str) -> str | None:
        """The content of a file that Git or DVC keeps; None where this run has none, or DVC's cache lost it."""
        content = self._committed(path)
        return _read(self.file(path)) if content is None else content

    def _committed(self, path: str) -> str | None:
        """The content of a file that Git keeps, or, of the workspace, of the one there; None where there is none."""
        if self.commit is None:
            return _read(Path(path))
        done = _git("cat-file", "blob", f"{self.commit}:{path}")
        return done.stdout if done.returncode == 0 else None

    def values(self, path: str, lines: bool = False) -> Any:
        """The value in a JSON file, or the list of those in its lines; None where `text` is. Raises UserError, which
        names file and run, for what is no JSON."""
        text = self.text(path)
        try:
            if lines and text is not None:
                return [json.loads(line) for line in text.split("\n") if line]
            return json.loads(text) if text else None
        except ValueError as error:
            raise UserError(f"{path} of {self.name}: no valid JSON: {error}; `dvc repro` writes it anew") from error

    def file(self, path: str) -> Path | None:
        """Where the file that this run has at a path of an output lies: in the cache, or, for the workspace, there."""
        if self.commit is None and Path(path).is_file():
            return Path(path)
        digest = self.digest(path)
        place = None if digest is None else _cached(digest)
        return place if place is not None and place.is_file() else None

    def digest(self, path: str) -> str | None:
        """The digest that dvc.lock gives an output, or that the list of its folder gives a file; None for all else."""
        return self._outputs.get(path) or self._listed(path)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The content of params.yaml, as it was: a schema of another time is not checked."""
        return self._mapping("params.yaml")

    def names(self, key: str) -> list[str]:
        """The list behind a dotted key of params.yaml; empty where it has none. Raises UserError for what is none."""
        value = self._at(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise UserError(f"params.yaml of {self.name}: {key}: expected a list of names (found {value!r:.80})")
        return value

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock that dvc.yaml still has: what ran last, with the digests of what it read and wrote."""
        return {name: self._ran[name] for name in self._stages() if name in self._ran}

    @cached_property
    def _ran(self) -> dict[str, Any]:
        """All stages of dvc.lock, also those that dvc.yaml no longer has."""
        with told(self, "dvc.lock", "`dvc repro` writes it anew"):
            ran = self._mapping("dvc.lock").get("stages") or {}
            for stage in ran.values():
                for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                    if not isinstance(entry["path"], str):
                        raise TypeError(entry["path"])
        return ran

    def _stages(self) -> Iterator[str]:
        """The names of all stages in dvc.yaml, those of a matrix as DVC numbers them: `masks@perlin`."""
        with told(self, "dvc.yaml", "see `dvc stage list`"):
            for name, entry in (self._mapping("dvc.yaml").get("stages") or {}).items():
                columns = [self._value(column) for column in (entry.get("matrix") or {}).values()]
                yield from ("@".join(filter(None, (name, "-".join(map(str, item))))) for item in product(*columns))

    def _value(self, column: Any) -> list[Any]:
        """A list of a matrix: as it stands there, or from params.yaml, where that has the key."""
        key = re.fullmatch(r"\$\{([\w.]+)\}", column) if isinstance(column, str) else None
        node = self._at(key[1]) if key else column
        return node if isinstance(node, list) else []

    def _at(self, key: str) -> Any:
        """What stands behind a dotted key of params.yaml; None where nothing does."""
        node: Any = self.params
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    def _mapping(self, path: str) -> dict[str, Any]:
        """A file of YAML that Git keeps; empty where this run has none: it is no output, to be asked of dvc.lock."""
        try:
            content = yaml.load(self._committed(path) or "", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise UserError(f"{path} of {self.name}: no valid YAML: {error}") from error
        return content if isinstance(content, dict) else {}

    def digests_of_shared(self, path: str) -> set[str]:
        """The digests that a folder into which several stages write can have, as DVC computes them from its files: with
        what stages of today left there, and with what all stages of dvc.lock did. Empty where none writes there, or
        the cache lost a list."""
        return {
            digest
            for stages in (self.lock, self._ran)
            if (digest := _merged(Path(path), _outputs_of(stages))) is not None
        }

    @cached_property
    def _outputs(self) -> dict[str, str]:
        """The digest of every output, by its path."""
        return _outputs_of(self.lock)

    def _listed(self, path: str) -> str | None:
        """The digest of a file within an output that is a folder."""
        for parent in Path(path).parents:
            if digest := self._outputs.get(parent.as_posix()):
                return _listing(digest).get(Path(path).relative_to(parent).as_posix())
        return None


@contextmanager
def told(run: Run, path: str, remedy: str) -> Iterator[None]:
    """Let a file of a run whose content has another shape than it should end as a UserError that names both."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} of {run.name}: not of the form that is read here ({error!r:.80}); {remedy}") from error


def find_run(name: str | None) -> Run:
    """The run of a Git revision or a DVC experiment by name; that of the workspace for None.

    Raises UserError for a name that is none, that nothing has, or that several experiments have.
    """
    if name is None or name == WORKSPACE:
        return Run(WORKSPACE, None)
    if not REVISION.fullmatch(name) or ".." in name:
        raise UserError(f"{name!r:.80}: expected one revision of Git, such as HEAD~1, a tag, or an experiment's name")
    done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode == 0:
        return Run(name, done.stdout.strip())
    # refs/exps/<2 digits>/<38 digits of the commit that it started from>/<name>
    refs = [
        line.split()
        for line in _git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").stdout.splitlines()
    ]
    revisions = {
        commit for ref, commit in refs if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/" + re.escape(name), ref)
    }
    if len(revisions) > 1:
        raise UserError(
            f"{name}: {len(revisions)} experiments have this name; say one commit: {', '.join(sorted(revisions))}"
        )
    if not revisions:
        raise UserError(
            f"{name}: no revision of Git and no experiment has this name; see `git log`, `dvc exp list --all`"
        )
    return Run(name, revisions.pop())


def _read(place: Path | None) -> str | None:
    """The text of a file; None where there is none, any more."""
    try:
        return None if place is None else place.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        return None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise UserError("git: no such command; install Git, which keeps the revisions") from error


def _cached(digest: str) -> Path | None:
    """Where DVC's cache keeps what has this digest. None for one that is none."""
    return _cache(Path.cwd()) / digest[:2] / digest[2:] if DIGEST.fullmatch(digest) else None


def _outputs_of(stages: Mapping[str, Any]) -> dict[str, str]:
    entries = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: str(out.get("md5", "")) for out in entries}


def _merged(folder: Path, outputs: Mapping[str, str]) -> str | None:
    """The digest of a folder with nothing but outputs; None where none of these lies in it, or a list is lost."""
    files: dict[str, str] = {}
    for output, digest in outputs.items():
        if not Path(output).is_relative_to(folder):
            continue
        within = Path(output).relative_to(folder).as_posix()
        if not digest.endswith(".dir"):
            files[within] = digest
        elif listing := _listing(digest):
            files |= {f"{within}/{name}": one for name, one in listing.items()}
        else:
            return None
    if not files:
        return None
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


@cache
def _listing(digest: str) -> dict[str, str]:
    """The digests of the files of a folder, by their paths in it; empty where the cache lost the list."""
    place = _cached(digest)
    if place is None or not place.is_file():
        return {}
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(place.read_text(encoding="utf-8"))}
    except (OSError, ValueError):  # it went meanwhile, or was cut off
        return {}


@cache
def _cache(root: Path) -> Path:
    """The folder of the cache of the DVC repository that holds a folder, wherever its configuration puts it."""
    from dvc.exceptions import DvcException  # a second to import
    from dvc.repo import Repo

    try:
        with Repo(root) as repo:
            return Path(repo.cache.local.path)
    except DvcException as error:
        raise UserError(f"no repository of DVC here: {error}; run this from its root") from error
