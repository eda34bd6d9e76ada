"""Each dataset, read from a tiny copy of its true layout, and each way in which a folder can be wrong."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dct_seg.data.base import ImageCache, Listing, Photo
from dct_seg.data.datasets import DATASETS, InteractiveDataset, LabeledImage, open_dataset
from dct_seg.data.images import image_size, read_first_channel, read_image, read_values

HEIGHT, WIDTH = 6, 8


def write_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path)
    return path


def mask_of(**boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Labels drawn as boxes: ``v3=(top, left, bottom, right)`` writes 3."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for key, (top, left, bottom, right) in boxes.items():
        labels[top:bottom, left:right] = int(key[1:])
    return labels


def save_mask(path: Path, labels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image = image.convert("P")
        image.putdata(labels.ravel().tolist())
        image.putpalette([value for index in range(256) for value in (255 - index, index // 2, 7)])
    image.save(path)


def make_folder(root: Path) -> Path:
    write_image(root / "images" / "a.jpg")
    write_image(root / "images" / "b c.png")
    save_mask(root / "masks" / "a.png", mask_of(v1=(0, 0, 2, 2), v2=(3, 3, 6, 6), v255=(5, 5, 6, 6)))
    save_mask(root / "masks" / "b c.png", mask_of(v255=(1, 1, 3, 4)))
    return root


def make_grabcut(root: Path) -> Path:
    for name in ("cross.jpg", "llama.bmp"):
        write_image(root / "data_GT" / name)
        save_mask(
            root / "boundary_GT" / f"{Path(name).stem}.bmp", mask_of(v128=(0, 0, 4, 4), v255=(1, 1, 3, 3))
        )
    return root


def make_berkeley(root: Path) -> Path:
    write_image(root / "images" / "1.jpg")
    write_image(root / "images" / "2.jpg")
    save_mask(
        root / "masks" / "1.png",
        np.repeat(mask_of(v129=(0, 0, 2, 2), v128=(3, 3, 5, 5))[:, :, None], 3, axis=2),
    )
    save_mask(root / "masks" / "2#001.png", mask_of(v255=(0, 0, 2, 3)))
    save_mask(root / "masks" / "2#002.png", mask_of(v255=(3, 0, 5, 2)))
    return root


def make_davis(root: Path) -> Path:
    write_image(root / "img" / "bear_00.jpg")
    save_mask(root / "gt" / "bear_00.png", mask_of(v1=(0, 0, 2, 2), v2=(0, 2, 2, 4)), palette=True)
    return root


def make_sbd(root: Path) -> Path:
    for name, labels in (
        ("2008_000001", mask_of(v1=(0, 0, 2, 2), v2=(3, 3, 6, 6))),
        ("2008_000002", mask_of(v1=(0, 0, 3, 3))),
    ):
        write_image(root / "img" / f"{name}.jpg")
        (root / "inst").mkdir(exist_ok=True)
        savemat(
            root / "inst" / f"{name}.mat", {"GTinst": {"Segmentation": labels, "Categories": np.array([1])}}
        )
    (root / "train.txt").write_text("2008_000001\n")
    (root / "val.txt").write_text("2008_000001\n2008_000002\n")
    return root


def make_voc(root: Path) -> Path:
    write_image(root / "JPEGImages" / "x.jpg")
    save_mask(
        root / "SegmentationObject" / "x.png",
        mask_of(v1=(0, 0, 2, 2), v2=(3, 3, 6, 6), v255=(2, 0, 3, 8)),
        palette=True,
    )
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("x\n")
    return root


def make_coco(root: Path) -> Path:
    write_image(root / "val2017" / "000000000009.jpg")
    square = {
        "size": [HEIGHT, WIDTH],
        "counts": [0, 2, 4, 2, 40],
    }  # columns first: two rows of the first two columns
    annotations = [
        {"id": 70, "image_id": 9, "area": 6, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
        {"id": 71, "image_id": 9, "area": 4, "segmentation": square},
        {"id": 69, "image_id": 9, "area": 6, "segmentation": [[1, 1, 4, 1]]},  # a line: no object
        {
            "id": 72,
            "image_id": 9,
            "area": 6,
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [36, 12]},
        },
    ]
    content = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


MAKERS: dict[str, tuple[Callable[[Path], Path], list[tuple[str, int, int]]]] = {
    # the dataset's maker, and for each sample its name and the pixels of its object and its ignored region
    "Folder": (make_folder, [("images/a.jpg#1", 4, 1), ("images/a.jpg#2", 8, 1), ("images/b c.png", 6, 0)]),
    "GrabCut": (make_grabcut, [("data_GT/cross.jpg", 4, 12), ("data_GT/llama.bmp", 4, 12)]),
    "Berkeley": (
        make_berkeley,
        [("images/1.jpg", 4, 0), ("images/2.jpg#001", 6, 0), ("images/2.jpg#002", 4, 0)],
    ),
    "DAVIS": (make_davis, [("img/bear_00.jpg", 8, 0)]),
    "COCO_MVal": (make_davis, [("img/bear_00.jpg", 8, 0)]),
    "SBD": (make_sbd, [("img/2008_000001.jpg#1", 4, 0), ("img/2008_000001.jpg#2", 9, 0)]),
    "VOC": (make_voc, [("JPEGImages/x.jpg#1", 4, 8), ("JPEGImages/x.jpg#2", 9, 8)]),
    "COCO": (make_coco, [("val2017/000000000009.jpg#70", 6, 12), ("val2017/000000000009.jpg#71", 4, 12)]),
    "Shapes": (lambda root: root, []),
}


def open_tiny(kind: str, root: Path) -> InteractiveDataset:
    if kind == "Shapes":
        return open_dataset(kind, num_images=3, size=(48, 64))
    return open_dataset(kind, MAKERS[kind][0](root))


def test_every_registered_dataset_is_tested_here() -> None:
    assert set(DATASETS.names()) == set(MAKERS)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_every_dataset_meets_the_contract_of_samples(kind: str, tmp_path: Path) -> None:
    dataset = open_tiny(kind, tmp_path)
    assert len({dataset.name(index) for index in range(len(dataset))}) == len(dataset)
    for index in range(len(dataset)):
        sample = dataset.read(index)
        assert sample.image.dtype == np.uint8
        assert sample.image.shape == (*sample.mask.shape, 3)
        assert sample.mask.dtype == sample.ignore.dtype == np.bool_
        assert sample.mask.any()
        assert not (sample.mask & sample.ignore).any()
        assert sample.name == dataset.name(index)
        assert index in dataset.samples_of(dataset.image_index(index))
        again = dataset.read(index)
        assert (again.image == sample.image).all()
        assert (again.mask == sample.mask).all()
    with pytest.raises(
        IndexError,
        match=f"sample index {len(dataset)} is out of range for a dataset with {len(dataset)} samples",
    ):
        dataset.read(len(dataset))


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - {"Shapes"}))
def test_every_layout_gives_its_objects_and_ignored_pixels(kind: str, tmp_path: Path) -> None:
    dataset = open_tiny(kind, tmp_path)
    found = [(one.name, int(one.mask.sum()), int(one.ignore.sum())) for one in dataset]
    assert found == MAKERS[kind][1]


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - {"Shapes"}))
def test_a_missing_folder_is_reported_with_the_expected_layout(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; .* needs .*") as error:
        open_dataset(kind, tmp_path / "nowhere")
    assert DATASETS.get(kind).layout in str(error.value)


def test_the_objects_of_one_image_share_its_name(tmp_path: Path) -> None:
    berkeley = open_dataset("Berkeley", make_berkeley(tmp_path))
    assert [berkeley.image_name(index) for index in range(3)] == [
        "images/1.jpg",
        "images/2.jpg",
        "images/2.jpg",
    ]


def test_sbd_and_voc_follow_the_split(tmp_path: Path) -> None:
    assert len(open_dataset("SBD", make_sbd(tmp_path), split="val")) == 3
    with pytest.raises(FileNotFoundError, match=r"has no test\.txt; SBD needs"):
        open_dataset("SBD", tmp_path, split="test")


def test_overlapping_coco_objects_are_complete(tmp_path: Path) -> None:
    coco = open_dataset("COCO", make_coco(tmp_path))
    first, second = coco.read(0).mask, coco.read(1).mask
    assert np.argwhere(second).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (first & second).sum() == 1


def test_coco_without_pycocotools_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dct-seg\[coco\]'"):
        open_dataset("COCO", make_coco(tmp_path))


def test_coco_with_two_json_files_needs_a_choice(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "more.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"2 JSON files; choose one with the option annotations: annotations/.*, more\.json"
    ):
        open_dataset("COCO", tmp_path)
    with pytest.raises(ValueError, match=r"more\.json is not a COCO file .*'images' and 'annotations'"):
        open_dataset("COCO", tmp_path, annotations="more.json")


def test_small_objects_are_skipped_and_having_none_left_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert [open_dataset("Folder", tmp_path, min_object_size=6).name(index) for index in range(2)] == [
        "images/a.jpg#2",
        "images/b c.png",
    ]
    with pytest.raises(ValueError, match="none of 2 masks contains an object of at least 9 pixels"):
        open_dataset("Folder", tmp_path, min_object_size=9)


def test_empty_masks_alone_are_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    save_mask(tmp_path / "masks" / "a.png", mask_of())
    with pytest.raises(
        ValueError, match=r"none of 1 masks contains an object; a mask has 0 for background and 1\.\.254"
    ):
        open_dataset("Folder", tmp_path)


def test_a_size_mismatch_stops_at_the_start_with_both_sizes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_image(tmp_path / "images" / "a.jpg", (WIDTH, HEIGHT))
    with pytest.raises(
        ValueError,
        match=r"images/a\.jpg is 6x8 but masks/a\.png is 8x6; is one of them rotated by EXIF\? `dct-seg data",
    ):
        open_dataset("Folder", tmp_path)


def test_a_file_that_is_not_an_image_is_skipped_and_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "images" / "a.jpg").write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"1 of \d+ files are skipped; first: .*a\.jpg cannot be decoded"):
        dataset = open_dataset("Folder", tmp_path)
    assert [dataset.name(index) for index in range(len(dataset))] == ["images/b c.png"]


def test_folder_of_unreadable_images_alone_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in ("a.jpg", "b c.png"):
        (tmp_path / "images" / name).write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"none of 2 images can be used; first: .*a\.jpg cannot be decoded"):
        open_dataset("Folder", tmp_path)


def test_an_image_without_a_mask_is_skipped_and_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_image(tmp_path / "images" / "z.jpg")
    with pytest.warns(UserWarning, match=r"1 of \d+ images have no mask and are skipped; first: z\.jpg"):
        assert len(open_dataset("Folder", tmp_path)) == 3


def test_two_images_of_one_stem_are_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path)
    write_image(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match="several images named 'a'"):
        open_dataset("Folder", tmp_path)


def test_a_folder_of_folders_suggests_the_suitable_ones(tmp_path: Path) -> None:
    make_folder(tmp_path / "cats")
    with pytest.raises(
        FileNotFoundError, match=r"has no images and no masks; .* these folders inside have this layout: cats"
    ):
        open_dataset("Folder", tmp_path)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(folder.parent))
    assert open_dataset("Folder", f"~/{folder.name}").root == folder
    assert len(open_dataset("cats", f"~/{folder.name}")) == 3


def test_an_unknown_name_reads_a_folder_and_else_gets_the_nearest(tmp_path: Path) -> None:
    assert len(open_dataset("cats", make_folder(tmp_path))) == 3
    with pytest.raises(ValueError, match="unknown dataset 'GrabCat'; did you mean 'GrabCut'"):
        open_dataset("GrabCat", tmp_path / "nowhere")


def test_an_unknown_option_and_a_missing_root_are_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the dataset Folder was given splt: .*unexpected keyword argument 'splt'"
    ):
        open_dataset("Folder", make_folder(tmp_path), splt="val")
    with pytest.raises(ValueError, match="the dataset GrabCut needs a folder: data_GT"):
        open_dataset("GrabCut")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.full((6, 8), 300, dtype=np.uint16),
            r"contains the value 300; expected 0 for background, 1\.\.254",
        ),
        (
            np.arange(144, dtype=np.uint8).reshape(6, 8, 3),
            r"is a color image \(RGB\); save the mask as an indexed or gray PNG",
        ),
    ],
)
def test_a_mask_without_labels_is_an_error(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    save_mask(tmp_path / "masks" / "a.png", labels)
    with pytest.raises(ValueError, match=message):
        open_dataset("Folder", tmp_path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_a_mask_has_its_labels_in_every_mode(mode: str, tmp_path: Path) -> None:
    labels = mask_of(v255=(1, 1, 3, 4))
    image = (
        Image.fromarray(labels.astype(np.uint16)) if mode == "I;16" else Image.fromarray(labels).convert(mode)
    )
    image.save(tmp_path / "m.png")
    values = read_values(tmp_path / "m.png")
    assert values.max() > 0
    assert (values == np.where(labels, values.max(), 0)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK"])
def test_an_image_is_rgb_in_every_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("p.tif" if mode in ("PA", "CMYK") else "p.png")
    source = Image.fromarray(np.full((4, 5), 255, dtype=np.uint8))
    (source.convert("LA").convert("PA") if mode == "PA" else source.convert("RGB").convert(mode)).save(path)
    image = read_image(path)
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert (image == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "float.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_turns_the_image_and_its_size(suffix: str, tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    path = tmp_path / f"turned.{suffix}"
    image.save(path, exif=exif, lossless=True)
    assert read_image(path).shape == (3, 2, 3)
    assert read_image(path)[0, 1, 0] == 255
    assert image_size(path) == (3, 2)


def test_the_first_channel_of_a_palette_is_its_red(tmp_path: Path) -> None:
    save_mask(tmp_path / "m.png", mask_of(v55=(0, 0, 2, 2)), palette=True)
    assert read_first_channel(tmp_path / "m.png")[:3, 0].tolist() == [200, 200, 255]


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
        read_image(path)


def test_the_cache_evicts_the_least_recently_used_and_stays_within_its_limit() -> None:
    decoded = LabeledImage(np.zeros((10, 10, 3), dtype=np.uint8), np.zeros((10, 10), dtype=np.uint8))
    cache = ImageCache(1000)
    cache.put((0, 0), decoded)
    cache.put((0, 1), decoded)
    assert cache.get((0, 0)) is decoded
    cache.put((0, 2), decoded)
    assert cache.get((0, 1)) is None
    assert cache.get((0, 0)) is decoded
    assert (len(cache), cache.num_bytes) == (2, 800)
    cache.put((0, 3), LabeledImage(np.zeros((99, 99, 3), dtype=np.uint8), np.zeros((99, 99), dtype=np.uint8)))
    assert len(cache) == 2


def test_a_good_folder_gives_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_dataset("Folder", make_folder(tmp_path))) == 3


def test_dataset_of_another_package_may_use_the_earlier_names() -> None:
    class Square(InteractiveDataset):
        def _list(self) -> Iterator[Listing]:
            yield Listing("square", objects=(1,), areas=(4,))

        def read_photo(self, image: int) -> Photo:
            return Photo(np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8))

    assert Square(None).read(0).mask.sum() == 4  # type: ignore[abstract]
