"""Photos that are missing: a single one is its row's matter, many are the disk's, in whatever order they go."""

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import Shop, outcomes, send, send_to_sandbox, settings_for

from batchupload.loading import Loading
from batchupload.model import Order
from batchupload.photo_places import IN_A_ROW, PhotoPlaces
from batchupload.sandbox import Sandbox, SandboxOptions


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need more than the second in which a row of missing photos is told from single ones."""
    monkeypatch.setattr("batchupload.loading.LOOK_AGAIN_SECONDS", 4.0)


GONE = ("deferred", "photo_folder_gone")
MISSING = ("invalid", "photo_missing")
UPLOADED = ("uploaded", "accepted")

ORDERS: dict[str, Callable[[list[Path]], Sequence[Path]]] = {
    "from the front": sorted,
    "from the back": lambda files: sorted(files, reverse=True),
    "at random": lambda files: random.Random(1).sample(files, len(files)),
}


def flat(shop: Shop) -> None:
    """Have all photos in one folder."""
    for row in shop.rows[1:]:
        for at, path in enumerate(row[1:], 1):
            row[at] = f"photos/{path.replace('/', '-')}"
            (shop.folder / "photos").mkdir(exist_ok=True)
            (shop.folder / path).rename(shop.folder / row[at])
        (shop.folder / row[0]).rmdir()


@pytest.mark.parametrize("one_folder", [True, False])
@pytest.mark.parametrize("order", ORDERS)
async def test_a_folder_that_is_emptied_file_by_file_in_mid_run_leaves_all_for_the_next_command(
    shop: Shop, order: str, one_folder: bool
) -> None:
    shop.orders(80)
    if one_folder:
        flat(shop)
    kept = shop.folder.with_name("kept")
    shutil.copytree(shop.folder, kept)
    files = ORDERS[order](list(shop.folder.rglob("*.jpg")))

    def emptied() -> None:
        for path in files:
            path.unlink()
            if not one_folder and not any(path.parent.iterdir()):
                path.parent.rmdir()
            time.sleep(0.0002)

    async with Sandbox(SandboxOptions(latency=0.06)) as server:
        settings = settings_for(server.url, pace={"concurrency": 2})
        running = asyncio.ensure_future(send(shop.manifest(), settings))
        async with asyncio.timeout(30):
            while len(server.accepted) < 8:
                await asyncio.sleep(0.005)
        await asyncio.to_thread(emptied)
        summary, report = await running
        ended = outcomes(report)
        assert set(ended.values()) == {UPLOADED, GONE}
        shutil.copytree(kept, shop.folder, dirs_exist_ok=True)
        left = {name for name, ending in ended.items() if ending == GONE}
        assert len(left) > 15
        _, again = await send(summary.report, settings, only=frozenset({"deferred"}))
    assert outcomes(again) == dict.fromkeys(left, UPLOADED)


async def test_a_block_of_orders_without_any_photo_behind_others_is_deferred(shop: Shop) -> None:
    orders = shop.orders(60)
    for order in orders[40:]:
        shutil.rmtree(shop.folder / order)
    _, report, _ = await send_to_sandbox(shop.manifest(), pace={"canary": 0})
    assert outcomes(report) == dict.fromkeys(orders[:40], UPLOADED) | dict.fromkeys(orders[40:], GONE)


@pytest.mark.parametrize("wholly", [True, False])
async def test_single_orders_whose_photos_never_came_are_the_rows_fault(shop: Shop, wholly: bool) -> None:
    orders = shop.orders(50)
    for order in orders[5::3]:
        shutil.rmtree(shop.folder / order) if wholly else (shop.folder / order / "back.jpg").unlink()
    _, report, _ = await send_to_sandbox(shop.manifest(), pace={"canary": 0})
    assert outcomes(report) == dict.fromkeys(orders, UPLOADED) | dict.fromkeys(orders[5::3], MISSING)


async def test_a_folder_that_vanished_before_any_of_its_photos_was_found_is_the_disks_fault(shop: Shop) -> None:
    for number in range(60):
        shop.order(f"{'gone' if number % 3 == 0 else 'here'}/HT{number:06}")
        shop.rows[-1][0] = shop.rows[-1][0].rpartition("/")[2]
    shutil.rmtree(shop.folder / "gone")
    _, report, _ = await send_to_sandbox(shop.manifest(), pace={"canary": 0})
    ended = outcomes(report)
    first = sorted(name for name in ended if int(name[2:]) % 3 == 0)
    assert {ended[name] for name in ended if name not in first} == {UPLOADED}
    assert {ended[name] for name in first[1:]} == {GONE}  # before the very first nothing had been found


async def test_a_photo_that_comes_a_moment_later_is_sent(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = shop.orders(60)
    late = shop.folder / orders[30] / "back.jpg"
    content = late.read_bytes()
    late.unlink()
    wait = Loading.look_again

    async def comes(loading: Loading, order: Order) -> Order:
        late.write_bytes(content)
        return await wait(loading, order)

    monkeypatch.setattr(Loading, "look_again", comes)
    _, report, _ = await send_to_sandbox(shop.manifest(), pace={"canary": 0})
    assert outcomes(report) == dict.fromkeys(orders, UPLOADED)


def places(root: Path, *found: str) -> PhotoPlaces:
    for path in found:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return PhotoPlaces(root, found)


def missing(known: PhotoPlaces, count: int, path: str) -> list[bool]:
    return [known.is_gone(path.format(number), [path.format(number)]) for number in range(count)]


def test_so_many_orders_in_a_row_are_no_matter_of_single_rows(tmp_path: Path) -> None:
    known = places(tmp_path, "a/1.jpg", "a/2.jpg")
    assert missing(known, IN_A_ROW + 1, "a/none{}.jpg") == [False] * (IN_A_ROW - 1) + [True] * 2
    known.found(["a/1.jpg"])
    assert missing(known, IN_A_ROW, "a/none{}.jpg") == [False] * (IN_A_ROW - 1) + [True]


def test_an_order_that_is_looked_at_twice_is_one_order(tmp_path: Path) -> None:
    known = places(tmp_path, "a/1.jpg")
    assert not any(missing(known, IN_A_ROW - 1, "a/none{}.jpg") + missing(known, IN_A_ROW - 1, "a/none{}.jpg"))


def test_photos_of_which_others_of_the_order_are_there_are_single_ones(tmp_path: Path) -> None:
    known = places(tmp_path, "a/1.jpg", "a/2.jpg")
    assert not any(known.is_gone(f"a/none{number}.jpg", [f"a/none{number}.jpg", "a/2.jpg"]) for number in range(50))


def test_one_photo_that_was_found_and_went_tells_of_the_disk(tmp_path: Path) -> None:
    known = places(tmp_path, *(f"a/{number}.jpg" for number in range(10)))
    assert not known.is_gone("a/none.jpg", ["a/none.jpg"])
    (tmp_path / "a/3.jpg").unlink()
    assert known.is_gone("a/none.jpg", ["a/none.jpg"])


def test_a_path_that_can_be_none_says_nothing_of_the_disk(tmp_path: Path) -> None:
    known = places(tmp_path, "a/1.jpg")
    assert not known.is_gone("a/\ud800.jpg", ["a/\ud800.jpg", "a/\0.jpg"])
