"""The profile `fast`: what it leaves out, that nothing else changes, and that nobody gets it who did not ask."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_flatten

from bench import fp8
from bench.fp8 import Fp8Convolution, Fp8Linear, scaled, use_fp8
from core.config.settings import Settings
from core.engines.base import Approximation
from core.engines.known import find_engine, known_engines
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve
from tests.worker.conftest import SVD_MARKS
from worker.attempt import Attempt, Stopped
from worker.engines.svd.deep_cache import Kept, forget_features, keep_deep_features, set_shallow
from worker.engines.svd.svd import Svd
from worker.engines.svd.weights import fetch

pytestmark = SVD_MARKS

SMALL = {"width": 32, "height": 32, "num_frames": 2, "num_inference_steps": 6, "decode_chunk_size": 3, "seed": 7}


def engine_with(model: Path, approximation: Approximation | None) -> Svd:
    settings = Settings(_env_file=None, model_id=str(model))
    engine = Svd(replace(find_engine("svd-xt", settings), approximation=approximation), settings)
    engine.hold(fetch(str(model), None, torch.float32))
    return engine


def clip(profile: str = "fast", **changes: Any) -> Clip:
    defaults = find_engine("svd-xt", Settings(_env_file=None)).defaults
    return Clip(engine="svd-xt", **defaults | SMALL | {"profile": profile} | changes)


def asked(unet: Any, scale: float = 1.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    sample = scale * torch.randn(2, 3, 8, 8, 8, generator=random)
    embedding = torch.randn(2, 1, unet.config.cross_attention_dim, generator=random)
    with torch.no_grad():
        predicted: torch.Tensor = unet(sample, torch.tensor(1.0), embedding, torch.ones(2, 3)).sample
    return predicted


@pytest.mark.parametrize("fresh_layers", [1, 2, 3])
def test_a_shallow_step_after_a_full_one_like_it_says_the_same(tiny_svd: Path, fresh_layers: int) -> None:
    unet = fetch(str(tiny_svd), None, torch.float32).unet
    plain = asked(unet)
    keep_deep_features(unet, fresh_layers)
    assert torch.equal(asked(unet), plain)
    set_shallow(unet, True)
    assert torch.equal(asked(unet), plain)
    assert not torch.equal(asked(unet, 1.1), plain)  # its fresh layers see what is new
    forget_features(unet)
    assert all(module.output is None for module in unet.modules() if isinstance(module, Kept))


@pytest.mark.parametrize(("fresh_layers", "worked"), [(1, (0, 1)), (2, (1, 2)), (3, (2, 3))])
def test_a_shallow_step_works_out_only_the_last_layers(
    tiny_svd: Path, fresh_layers: int, worked: tuple[int, int]
) -> None:
    unet = fetch(str(tiny_svd), None, torch.float32).unet
    layers = [list(block.resnets) for block in (unet.down_blocks[0], unet.up_blocks[-1])]
    deep = [*unet.down_blocks[1].resnets, *unet.mid_block.resnets, *unet.up_blocks[0].resnets]
    keep_deep_features(unet, fresh_layers)
    asked(unet)
    set_shallow(unet, True)
    seen: list[nn.Module] = []
    for module in (*layers[0], *layers[1], *deep):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    asked(unet)
    assert seen == [*layers[0][: worked[0]], *layers[1][len(layers[1]) - worked[1] :]]


def test_what_nobody_looks_at_again_takes_no_memory(tiny_svd: Path) -> None:
    unet = fetch(str(tiny_svd), None, torch.float32).unet
    keep_deep_features(unet, 1)
    asked(unet)
    outputs, _ = tree_flatten([module.output for module in unet.modules() if isinstance(module, Kept)])
    assert len(outputs) > 5
    assert sum(output.untyped_storage().nbytes() > 8 for output in outputs) == 1


def test_an_exact_clip_is_the_same_on_an_engine_that_can_do_both(tiny_svd: Path, photo: Image.Image) -> None:
    exact = clip("exact")
    without = engine_with(tiny_svd, None).render(photo, exact, Attempt())
    both = engine_with(tiny_svd, Approximation(2, 1, 0.5))
    assert np.array_equal(both.render(photo, exact, Attempt()), without)
    fast = both.render(photo, clip(), Attempt())
    assert not np.array_equal(fast, without)
    assert np.array_equal(both.render(photo, exact, Attempt()), without)  # nothing is left of the fast one
    assert np.array_equal(both.render(photo, clip(), Attempt()), fast)  # the same seed, the same approximation


def test_an_approximation_that_leaves_nothing_out_is_exact(tiny_svd: Path, photo: Image.Image) -> None:
    engine = engine_with(tiny_svd, Approximation(1, 1, 1.0))
    fast = engine.render(photo, clip(), Attempt()).astype(int)
    assert np.abs(fast - engine.render(photo, clip("exact"), Attempt())).max() <= 1


@pytest.mark.parametrize(("max_guidance_scale", "batches"), [(3.0, [2, 2, 2, 1, 1, 1]), (1.0, [1] * 6)])
def test_the_unguided_steps_run_on_one_sample(
    tiny_svd: Path, photo: Image.Image, max_guidance_scale: float, batches: list[int]
) -> None:
    engine, seen = engine_with(tiny_svd, Approximation(3, 1, 0.5)), []
    engine.pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    engine.render(photo, clip(max_guidance_scale=max_guidance_scale), Attempt())
    assert seen == batches


def test_a_fast_clip_that_is_stopped_leaves_the_next_one_right(tiny_svd: Path, photo: Image.Image) -> None:
    engine = engine_with(tiny_svd, Approximation(2, 1, 0.5))
    before = engine.render(photo, clip("exact"), Attempt())

    class Stops(Attempt):
        def advance(self, done: int, total: int) -> None:
            if done == 2:  # after the first shallow step
                raise Stopped

    with pytest.raises(Stopped):
        engine.render(photo, clip(), Stops())
    assert np.array_equal(engine.render(photo, clip("exact"), Attempt()), before)


def test_nothing_approximate_is_had_without_asking() -> None:
    settings = Settings(_env_file=None)
    for engine in known_engines(settings).values():
        wanted, _ = resolve(ClipRequest(), engine, settings)
        assert wanted.profile in (None, "exact")
        assert ("profile" in engine.limits) == (engine.approximation is not None)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(64, 32), (2, 5, 64)),
        (nn.Linear(64, 32, bias=False), (7, 64)),
        (nn.Conv2d(32, 48, 3, padding=1), (2, 32, 10, 12)),
        (nn.Conv2d(32, 16, 3, stride=2, padding=1), (2, 32, 11, 12)),
        (nn.Conv2d(32, 16, 1), (2, 32, 5, 6)),
        (nn.Conv2d(32, 16, (3, 1), padding=(1, 0)), (2, 32, 5, 6)),
    ],
)
def test_eight_bit_layers_are_near_those_they_stand_for(layer: nn.Module, shape: tuple[int, ...]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stands = Fp8Linear(layer) if isinstance(layer, nn.Linear) else Fp8Convolution(layer)  # type: ignore[arg-type]  # a convolution then
    with torch.no_grad():
        expected, found = layer(given), stands(given)
    assert found.shape == expected.shape
    assert 0.005 < (found - expected).norm() / expected.norm() < 0.06  # three bits after the point


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(64, 32), (2, 5, 64)), (nn.Conv2d(32, 48, 3, padding=1), (5, 32, 10, 12))]
)
def test_eight_bit_layers_work_some_rows_after_the_others_and_give_the_same(
    layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is scaled is there in float32 meanwhile: at once it would be 41 GB at full size."""
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stands = Fp8Linear(layer) if isinstance(layer, nn.Linear) else Fp8Convolution(layer)  # type: ignore[arg-type]  # a convolution then
    seen: list[int] = []
    monkeypatch.setattr(fp8, "scaled", lambda rows: seen.append(len(rows)) or scaled(rows))
    with torch.no_grad():
        expected = stands(given)
        (rows,) = seen if isinstance(layer, nn.Linear) else [max(seen)]
        seen.clear()
        monkeypatch.setattr(fp8, "ROWS", 3 if isinstance(layer, nn.Linear) else 240)
        assert torch.equal(stands(given), expected)
    assert len(seen) > 1
    assert max(seen) <= fp8.ROWS < rows


def test_every_layer_whose_sides_fit_is_in_eight_bits(tiny_svd: Path) -> None:
    pipeline = fetch(str(tiny_svd), None, torch.float32)
    exact = asked(pipeline.unet)
    use_fp8(pipeline)
    modules = list(pipeline.unet.modules())
    assert sum(isinstance(module, Fp8Linear) for module in modules) > 50
    assert sum(isinstance(module, Fp8Convolution) for module in modules) > 10
    assert not any(isinstance(module, nn.Linear) and module.weight.shape[0] % 16 == 0 for module in modules)
    found = asked(pipeline.unet)
    assert 0.001 < (found - exact).norm() / exact.norm() < 0.2


def test_eight_bits_of_nothing_are_nothing() -> None:
    """The picture that an unguided sample does not know is all zeros, and in float16 their scale would be too."""
    linear = nn.Linear(32, 16, dtype=torch.float16)
    numbers, scale = scaled(torch.zeros(4, 32, dtype=torch.float16))
    assert scale.isfinite().all()
    assert not numbers.float().any()
    assert torch.equal(Fp8Linear(linear)(torch.zeros(4, 32, dtype=torch.float16)), linear.bias.expand(4, 16))
