"""Runs of the past: what a commit or an experiment of DVC holds, from Git and from DVC's cache, without a checkout."""

import json
import re
import subprocess
from collections.abc import Iterator
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
        if self.commit is not None:
            done = _git("cat-file", "blob", f"{self.commit}:{path}")
            if done.returncode == 0:
                return done.stdout
        place = self.file(path)
        try:
            return None if place is None else place.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # since it was looked for
            return None

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

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock that dvc.yaml still has: what ran last, with the digests of what it read and wrote."""
        ran = self._mapping("dvc.lock").get("stages") or {}
        return {name: ran[name] for name in self._stages() if name in ran}

    def _stages(self) -> Iterator[str]:
        """The names of all stages in dvc.yaml, those of a matrix as DVC numbers them: `masks@perlin`."""
        for name, entry in (self._mapping("dvc.yaml").get("stages") or {}).items():
            columns = [self._value(column) for column in (entry.get("matrix") or {}).values()]
            yield from ("@".join(filter(None, (name, "-".join(map(str, item))))) for item in product(*columns))

    def _value(self, column: Any) -> list[Any]:
        """A list of a matrix: as it stands there, or from params.yaml, where that has the key."""
        key = re.fullmatch(r"\$\{([\w.]+)\}", column) if isinstance(column, str) else None
        node: Any = self.params if key else column
        for name in key[1].split(".") if key else ():
            node = node.get(name) if isinstance(node, dict) else None
        return node if isinstance(node, list) else []

    def _mapping(self, path: str) -> dict[str, Any]:
        try:
            content = yaml.load(self.text(path) or "", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise UserError(f"{path} of {self.name}: no valid YAML: {error}") from error
        return content if isinstance(content, dict) else {}

    @cached_property
    def _outputs(self) -> dict[str, str]:
        """The digest of every output, by its path."""
        entries = [out for stage in self.lock.values() for out in stage.get("outs", [])]
        return {out["path"]: str(out.get("md5", "")) for out in entries}

    def _listed(self, path: str) -> str | None:
        """The digest of a file within an output that is a folder."""
        for parent in Path(path).parents:
            if digest := self._outputs.get(parent.as_posix()):
                return _listing(digest).get(Path(path).relative_to(parent).as_posix())
        return None


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
    found = {
        commit for ref, commit in refs if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/" + re.escape(name), ref)
    }
    if len(found) > 1:
        raise UserError(f"{name}: {len(found)} experiments have this name; say one commit: {', '.join(sorted(found))}")
    if not found:
        raise UserError(
            f"{name}: no revision of Git and no experiment has this name; see `git log`, `dvc exp list --all`"
        )
    return Run(name, found.pop())


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise UserError("git: no such command; install Git, which keeps the revisions") from error


def _cached(digest: str) -> Path | None:
    """Where DVC's cache keeps what has this digest. None for one that is none."""
    return _cache(Path.cwd()) / digest[:2] / digest[2:] if DIGEST.fullmatch(digest) else None


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
