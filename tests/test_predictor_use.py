"""Typical use of a predictor: from threads, with options out of range, with negative clicks first."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_net
from numpy.typing import NDArray

from dct_seg import Click, Predictor
from dct_seg.methods import METHODS
from dct_seg.methods.base import Method
from dct_seg.methods.dctnet import DCTNetMethod

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
NET = tiny_net(previous_mask=True)
torch.nn.init.constant_(NET.decoder.predict.bias, 0.3)
LATE = tiny_net(previous_mask=True, prompt_fusion="late")
torch.nn.init.constant_(LATE.decoder.predict.bias, 0.3)


class Slow(Method):
    """Method that adds up clicks and the previous mask, and lets other threads run in between."""

    name, paper = "slow", ""

    def reset(self, image: NDArray[np.uint8]) -> None:
        self.mean = float(image.mean())

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        time.sleep(0.002)
        probs = np.zeros(image.shape[:2], np.float32) if previous is None else previous / 2
        probs[round(clicks[-1].row), round(clicks[-1].col)] += 0.1 + self.mean / 1000
        return probs


def clicks_of(number: int) -> list[Click]:
    return [Click(number + k, 3 * k, radius=4.0) for k in range(4)]


def test_threads_that_share_a_predictor_get_the_masks_of_one_thread() -> None:
    alone, shared = Predictor(Slow()), Predictor(Slow())
    for predictor in (alone, shared):
        predictor.set_image(IMAGE)
    wanted = [alone.predict(clicks_of(number)).probs for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        found = [
            answer.probs for answer in pool.map(lambda number: shared.predict(clicks_of(number)), range(20))
        ]
    assert [np.array_equal(*pair) for pair in zip(wanted, found, strict=True)] == [True] * 20


def test_all_clicks_of_threads_are_kept_and_an_image_is_set_between_calls() -> None:
    shared = Predictor(Slow())
    shared.set_image(IMAGE)
    threads = [threading.Thread(target=shared.click, args=(5, col)) for col in range(8)]
    threads.append(threading.Thread(target=lambda: [shared.undo() for _ in range(3)]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 5 <= len(shared.predict(shared._clicks).clicks) <= 8


def test_predictors_of_one_method_each_keep_their_image() -> None:
    method = Slow()
    first, second = Predictor(method), Predictor(method)
    first.set_image(IMAGE)
    second.set_image(np.full_like(IMAGE, 9))
    fresh = Predictor(Slow())
    fresh.set_image(IMAGE)
    assert np.array_equal(first.click(3, 3).probs, fresh.click(3, 3).probs)


class Everything(Method):
    """Method that segments the whole image, or returns probabilities of another size."""

    name, paper = "everything", ""

    def __init__(self, *, rows: int = 40) -> None:
        self.rows = rows

    def reset(self, image: NDArray[np.uint8]) -> None:
        pass

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        return np.ones((self.rows, image.shape[1]), np.float32)


@pytest.mark.parametrize("start", [False, True])
def test_objects_predicted_together_without_a_positive_click_are_as_empty_as_alone(start: bool) -> None:
    predictor = Predictor(Everything())
    predictor.set_image(IMAGE, start=np.full(IMAGE.shape[:2], True) if start else None)
    negative, positive = Click(1, 1, positive=False), Click(20, 20)
    objects = [[negative], [negative, negative, positive], [positive, negative], []]
    alone = [predictor.predict(clicks).mask for clicks in objects]
    together = [one.mask for one in predictor.predict_batch(objects)]
    assert [mask.sum() for mask in together] == [mask.sum() for mask in alone]
    assert together[0].all() == start


def test_probabilities_of_another_size_are_refused() -> None:
    predictor = Predictor(Everything(rows=39))
    predictor.set_image(IMAGE)
    for predict in (predictor.predict, lambda clicks: predictor.predict_batch([clicks])):
        with pytest.raises(ValueError, match=r"the method returned \(39, 56\); expected .* \(40, 56\)"):
            predict([Click(20, 20)])


def test_predictor_can_be_sent_to_another_process() -> None:
    predictor = Predictor(Slow())
    predictor.set_image(IMAGE)
    answer = predictor.click(3, 3)
    assert np.array_equal(pickle.loads(pickle.dumps(predictor)).undo().probs, 0 * answer.probs)


@pytest.mark.parametrize("threshold", [2.0, -0.1, float("nan"), float("inf"), "0.5", None, True])
def test_threshold_that_is_not_a_probability_is_refused(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold must be a probability, 0 to 1, got"):
        Predictor(Slow(), threshold=threshold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "unknown precision 'fp16'; .*known: auto, float32, bfloat16"),
        ({"precision": "nonsense"}, "unknown precision 'nonsense'"),
        ({"first_size": 0}, "first_size must be at least 1, got 0"),
        ({"zoom_size": -5}, "zoom_size must be at least 1, got -5"),
        ({"first_reach": -1.0}, "first_reach must be at least 0, got -1.0"),
        ({"zoom_margin": float("nan")}, "zoom_margin must be at least 1, got nan"),
        ({"zoom_size": "384"}, "zoom_size must be at least 1, got 384"),
        ({"zoom_in": "no"}, "zoom_in must be true or false, got 'no'"),
        ({"flip": 1}, "flip must be true or false, got 1"),
        ({"device": "gpu"}, "unknown device 'gpu'; give cpu, cuda"),
    ],
)
def test_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DCTNetMethod(net=NET, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_reported() -> None:
    with pytest.raises(ValueError, match="device 'cuda' needs a GPU"):
        DCTNetMethod(net=NET, device="cuda")


def methods() -> list[Any]:
    small = {"first_size": 48, "zoom_size": 40, "precision": "float32"}
    nets = [DCTNetMethod(net=net, **small) for net in (NET, LATE)]
    return [
        *nets,
        Slow(),
        *(METHODS.get(name)() for name in ("disc", "grabcut", "graph_cut", "random_walker", "esc")),
    ]


@pytest.mark.parametrize("method", methods(), ids=lambda method: type(method).__name__)
def test_negative_clicks_alone_give_the_empty_mask(method: Method) -> None:
    predictor = Predictor(method)
    predictor.set_image(IMAGE)
    for row in (10, 30):
        answer = predictor.click(row, 20, positive=False, radius=5.0)
        assert not answer.probs.any()
        assert len(answer.clicks) == row // 20 + 1
    assert predictor.click(20, 40, radius=6.0).probs.any()


def test_negative_click_alone_is_empty_without_a_predictor_and_in_a_preview() -> None:
    method = DCTNetMethod(net=LATE, first_size=48, zoom_size=40, precision="float32")
    method.reset(IMAGE)
    clicks = [Click(10, 20, positive=False, radius=5.0)]
    assert not method.predict(IMAGE, clicks, None).any()
    view, probs = method.preview(IMAGE, clicks, None, share=0.5)
    assert probs.shape == view.size
    assert not probs.any()


@pytest.mark.parametrize("method", methods(), ids=lambda method: type(method).__name__)
def test_negative_click_corrects_a_mask_to_start_from(method: Method) -> None:
    start = np.zeros((40, 56), bool)
    start[5:35, 5:50] = True
    predictor = Predictor(method)
    predictor.set_image(IMAGE, start=start)
    assert predictor.click(10, 20, positive=False, radius=3.0).probs.any()
