"""Which pictures are looked at, under which names, and when one that arrives is whole."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import UserError
from lib.intake import Names, Picture, Signature, arrivals, listed, signature

NEW, OUT = Path("data/new"), Path("data/out")
TABLE = "picture,anomaly_score,defect_pixels,alarm,error,result\n"


def write(*names: str, text: str = "whole") -> None:
    for name in names:
        path = NEW / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def named(pictures: list[Picture]) -> dict[str, str]:
    return {one.path.relative_to(NEW).as_posix(): one.name for one in pictures}


def test_subfolders_are_searched_and_results_mirror_them(inside: Path):
    write("0.png", "line/1.JPG", "line/night/2.tiff", "notes.txt", "line/3.png.tmp-17")
    assert named(listed([NEW], OUT)) == {"0.png": "0", "line/1.JPG": "line/1", "line/night/2.tiff": "line/night/2"}
    assert [one.name for one in listed([NEW / "line/1.JPG", NEW / "0.png"], OUT)] == ["1", "0"]


def test_hidden_files_and_folders_are_skipped(inside: Path):
    write("0.png", "._0.png", ".hidden/1.png")
    assert named(listed([NEW], OUT)) == {"0.png": "0"}


def test_a_picture_in_a_format_that_is_not_read_does_not_pass_unseen(inside: Path):
    write("0.png", "1.webp", "2.HEIC", "3.jfif", "notes.txt")
    assert named(listed([NEW], OUT)) == {"0.png": "0", "1.webp": "1", "2.HEIC": "2", "3.jfif": "3"}


def test_a_png_and_a_jpg_of_one_shot_have_results_of_their_own(inside: Path):
    write("0.jpg", "0.png", "0.png.bmp", "sub/0.png")
    assert named(listed([NEW], OUT)) == {"0.jpg": "0", "0.png": "0.png", "0.png.bmp": "0.png.bmp", "sub/0.png": "sub/0"}


@given(st.lists(st.from_regex(r"(a|b|a\.png|a\.jpg)(-2)?\.(png|jpg|bmp)", fullmatch=True), unique=True))
def test_every_picture_has_a_name_of_its_own(files: list[str]):
    names = Names()
    given_names = [names.of(Path("new", file), PurePath(file)).name for file in files]
    assert len(set(given_names)) == len(files)
    assert [names.of(Path("new", file), PurePath(file)).name for file in files] == given_names, "and keeps it"


def test_pictures_of_one_name_in_two_folders_are_refused_and_in_subfolders_of_one_are_not(inside: Path):
    write("a/0.png", "b/0.png")
    with pytest.raises(UserError, match=r"new/a/0\.png and .*new/b/0\.png: results of one name; name the folder above"):
        listed([NEW / "a", NEW / "b"], OUT)
    assert named(listed([NEW, NEW / "a/0.png"], OUT)) == {"a/0.png": "a/0", "b/0.png": "b/0"}


def test_results_are_never_looked_at(inside: Path):
    write("0.png", "found/0_mask.png", "yesterday/0_found.png")
    (NEW / "yesterday/scores.csv").write_text(TABLE)
    assert named(listed([NEW], NEW / "found")) == {"0.png": "0"}
    with pytest.raises(UserError, match=r"yesterday: holds results of lib\.predict"):
        listed([NEW / "yesterday"], OUT)
    (NEW / "yesterday/scores.csv").write_text("name,score\n")
    assert len(listed([NEW], NEW / "found")) == 2, "somebody else's table says nothing"
    for out in (NEW, NEW / ".." / "new", NEW / "found" / ".."):
        with pytest.raises(UserError, match="new lies there; results need another folder"):
            listed([NEW], out)


def test_links_are_followed_but_not_in_a_circle(inside: Path):
    write("sub/0.png")
    (NEW / "sub/round").symlink_to(NEW.absolute(), target_is_directory=True)
    Path("elsewhere").mkdir()
    Path("elsewhere/1.png").write_text("whole")
    (NEW / "linked").symlink_to(Path("elsewhere").absolute(), target_is_directory=True)
    assert sorted(named(listed([NEW], OUT)).values()) == ["linked/1", "sub/0"]


def test_what_cannot_be_is_refused(inside: Path):
    Path("empty").mkdir()
    with pytest.raises(UserError, match="no picture in it"):
        listed([Path("empty")], OUT)
    with pytest.raises(UserError, match="nowhere: not found"):
        listed([Path("nowhere")], OUT)
    write("0.png")
    with pytest.raises(UserError, match="only folders are watched"):
        next(arrivals([NEW / "0.png"], OUT, lambda: None))


def turns(
    *between: Callable[[], None],
    done: Mapping[str, Signature] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[list[str]]:
    """What each turn of watching gives, when these things happen between the turns."""
    steps = iter(between)
    incoming = arrivals([NEW], OUT, lambda: next(steps)(), done=done, say=say)
    return [sorted(one.name for one in next(incoming)) for _ in range(len(between) + 1)]


def nothing() -> None:
    """Between two turns."""


def test_a_picture_is_looked_at_once_when_it_no_longer_grows(inside: Path):
    write("0.png")
    grow = [lambda n=n: write("1.png", text="x" * n) for n in (1, 2, 3)]
    assert turns(nothing, *grow, nothing, nothing) == [[], ["0"], [], [], [], ["1"], []]


def test_a_picture_that_is_written_anew_is_looked_at_anew(inside: Path):
    write("0.png")
    assert turns(nothing, lambda: write("0.png", text="longer"), nothing) == [[], ["0"], [], ["0"]]
    write("0.png", text="same length")
    os.utime(NEW / "0.png", (1, 1))

    def touch() -> None:
        os.utime(NEW / "0.png", (2, 2))

    assert turns(nothing, touch, nothing) == [[], ["0"], [], ["0"]]


def test_pictures_of_one_name_in_two_watched_folders_both_get_results_after_a_restart_too(inside: Path):
    for camera in ("left", "right"):
        write(f"{camera}/1.png")
    folders = [NEW / "left", NEW / "right"]

    def watched(owners: Mapping[str, str] | None = None) -> dict[str, str]:
        incoming = arrivals(folders, OUT, lambda: None, owners)
        next(incoming)
        return {one.name: one.display_name for one in next(incoming)}

    names = watched()
    assert sorted(names.values()) == ["data/new/left/1.png", "data/new/right/1.png"] and names["1"].endswith(
        "left/1.png"
    )
    assert watched(names) == names


def test_what_vanishes_before_it_is_whole_is_never_looked_at(inside: Path):
    write("0.png")
    assert turns((NEW / "0.png").unlink, nothing) == [[], [], []]


def test_pictures_of_an_earlier_run_are_not_looked_at_again(inside: Path):
    write("0.png", "1.png", "2.png", "3.png")
    done = {f"{NEW.as_posix()}/{name}": signature(NEW / name) for name in ("0.png", "1.png", "2.png", "gone.png")}
    done = {name: found or (1, 1) for name, found in done.items()}
    write("1.png", text="of another size")
    os.utime(NEW / "2.png", (1, 1))
    assert turns(nothing, lambda: write("0.png", text="anew"), nothing, done=done) == [[], ["1", "2", "3"], [], ["0"]]


def test_a_folder_that_is_away_for_a_while_is_waited_for(inside: Path):
    write("0.png")
    told: list[str] = []

    def back() -> None:
        Path("elsewhere").rename(NEW)
        write("1.png")

    steps = (nothing, lambda: NEW.rename("elsewhere"), nothing, back, nothing)
    assert turns(*steps, say=told.append) == [[], ["0"], [], [], [], ["1"]], "what was seen is not looked at again"
    assert told == [f"{NEW}: not found; waiting for it"]


def test_a_network_that_is_down_is_waited_for(inside: Path, monkeypatch: pytest.MonkeyPatch):
    write("0.png")
    told: list[str] = []
    plain = Path.exists

    def stale(path: Path, **follow: bool) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    def down() -> None:
        monkeypatch.setattr(Path, "exists", stale)

    def up() -> None:
        monkeypatch.setattr(Path, "exists", plain)

    assert turns(nothing, down, up, nothing, say=told.append) == [[], ["0"], [], [], []]
    assert len(told) == 1 and "Stale file handle; waiting for it" in told[0]


def test_what_is_gone_when_it_is_looked_at_is_new_when_it_comes_back(inside: Path):
    write("0.png", "1.png")
    incoming = arrivals([NEW], OUT, lambda: None)
    assert next(incoming) == []
    assert [one.name for one in next(incoming)] == ["0", "1"]
    (NEW / "0.png").rename("aside.png")  # while the two are looked at
    assert next(incoming) == []
    Path("aside.png").rename(NEW / "0.png")
    assert [[one.name for one in next(incoming)] for _ in range(3)] == [[], ["0"], []]


def test_a_picture_of_an_earlier_run_that_comes_late_is_known(inside: Path):
    write("0.png")
    done = {f"{NEW.as_posix()}/0.png": signature(NEW / "0.png")}
    (NEW / "0.png").rename("aside.png")
    write("1.png")
    assert turns(nothing, lambda: Path("aside.png").rename(NEW / "0.png"), nothing, done=done) == [[], ["1"], [], []]


def test_a_folder_that_is_away_at_first_is_refused(inside: Path):
    write("0.png")
    NEW.rename("elsewhere")
    with pytest.raises(UserError, match="is no folder"):
        turns(nothing)


def test_new_subfolders_are_seen_and_results_among_the_pictures_are_not(inside: Path):
    write("0.png")

    def arrive() -> None:
        write("night/1.png", "found/0_mask.png")
        (NEW / "found/scores.csv").write_text(TABLE)

    assert turns(nothing, arrive, nothing) == [[], ["0"], [], ["night/1"]]


def test_names_do_not_change_when_another_picture_of_the_shot_arrives(inside: Path):
    write("0.png")
    assert turns(nothing, lambda: write("0.jpg"), nothing) == [[], ["0"], [], ["0.jpg"]]
