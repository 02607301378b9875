"""The fixtures keep their promises: deterministic, exportable in both modes, no weight right by luck."""

from __future__ import annotations

import inspect

import pytest

torch = pytest.importorskip("torch")

from torch.utils import _pytree as pytree  # noqa: E402

from fixtures.hf import HF  # noqa: E402
from fixtures.zoo import ZOO, Fixture, Registry  # noqa: E402

PARAMETERS_AT_MOST = 200_000


def cases() -> list[object]:
    """Every fixture; "slow" and "hf" tags become marks, so that the inner loop can leave them out."""
    return [
        pytest.param(
            fixture, id=name, marks=[getattr(pytest.mark, tag) for tag in ("slow", "hf") if tag in fixture.tags]
        )
        for name, fixture in {**ZOO, **HF}.items()
    ]


def build(fixture: Fixture, mode: str) -> torch.nn.Module:
    if "hf" in fixture.tags:
        pytest.importorskip("transformers")
    return fixture.build().train(mode == "train")


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def run(fixture: Fixture, mode: str) -> list[torch.Tensor]:
    """Outputs, and the buffers after the call, of a fresh module under a fixed seed."""
    module = build(fixture, mode)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        outputs = module(*fixture.args(), **fixture.kwargs())
    return tensors(outputs) + list(module.buffers())


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("fixture", cases())
def test_two_builds_give_the_same_finite_outputs(fixture: Fixture, mode: str) -> None:
    state = torch.random.get_rng_state()
    first, second = run(fixture, mode), run(fixture, mode)
    assert torch.equal(state, torch.random.get_rng_state()), "building a fixture changed the global random state"
    assert first
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert bool(torch.isfinite(a).all())


@pytest.mark.parametrize("fixture", cases())
def test_no_weight_is_trivial(fixture: Fixture) -> None:
    module = build(fixture, "eval")
    assert sum(p.numel() for p in module.parameters()) <= PARAMETERS_AT_MOST
    for name, parameter in module.named_parameters():
        values = parameter.detach()
        assert bool(torch.isfinite(values).all()), name
        assert values.numel() == 1 or values.std() > 1e-3, f"{name} is constant"
        assert bool(((values != 0) & (values != 1)).float().mean() > 0.95), f"{name} is zeros or ones"
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            assert 0.3 <= float(buffer.min()) <= float(buffer.max()) <= 3.0, name
            assert buffer.unique().numel() == buffer.numel(), name
        elif name.endswith("running_mean"):
            assert bool((buffer != 0).all()), name


REFUSED = [pytest.param(f, mode, id=f"{f.name}-{mode}") for f in {**ZOO, **HF}.values() for mode in f.refuses]


@pytest.mark.parametrize(("fixture", "mode"), REFUSED)
def test_torch_still_refuses(fixture: Fixture, mode: str) -> None:
    """What torch.export itself cannot trace. That all others export is seen where they are converted."""
    module = build(fixture, mode)
    with pytest.raises(Exception) as refusal:
        torch.export.export(
            module, fixture.args(), fixture.kwargs(), dynamic_shapes=fixture.export_shapes(module), strict=False
        )
    assert fixture.refuses[mode] in str(refusal.value)


@pytest.mark.parametrize("fixture", cases())
def test_dynamic_dims_can_be_told_apart(fixture: Fixture) -> None:
    """An example size of 1 would be specialised; two dims of one size would hide swapped axes."""
    sizes: dict[str, int] = {}
    named = {} if fixture.dynamic is None else fixture.dynamic
    module = build(fixture, "eval")
    fixture.export_shapes(module)  # raises where the names do not fit the inputs
    if fixture.dynamic is None:
        for tensor in tensors((fixture.args(), fixture.kwargs())):
            assert tensor.ndim == 0 or tensor.shape[0] >= 2
    for name, tensor in bound_tensors(fixture, module).items():
        for dim, size in zip(named.get(name, ()), tensor.shape, strict=False):
            if dim is not None:
                assert size >= 2
                assert sizes.setdefault(dim, size) == size, f"{dim} has two sizes"
    assert len(set(sizes.values())) == len(sizes), f"dims share a size: {sizes}"


def bound_tensors(fixture: Fixture, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    bound = inspect.signature(module.forward).bind(*fixture.args(), **fixture.kwargs()).arguments
    return {name: value for name, value in bound.items() if isinstance(value, torch.Tensor)}


def test_every_float_parameter_reaches_an_output_or_is_declared() -> None:
    """A fixture's unused parameters are said to be unused; otherwise its gradients would be compared with nothing."""
    dead = {f"auxiliary.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}
    declared = {"keywords": {"side.weight", "side.bias"}, "constants": {"unused"}, "dead_batch_norm": dead}
    for name, fixture in ZOO.items():
        module = build(fixture, "train")
        with torch.random.fork_rng(devices=[]):
            outputs = module(*fixture.args(), **fixture.kwargs())
        reaching = [t for t in tensors(outputs) if t.requires_grad]
        torch.autograd.backward(reaching, [torch.ones_like(t) for t in reaching])
        unused = {n for n, p in module.named_parameters() if p.requires_grad and p.grad is None}
        assert unused == declared.get(name, set()), name
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), f"{name}: {parameter_name}"


def test_a_name_is_registered_once() -> None:
    registry = Registry()
    registry.register("one", torch.nn.Identity, lambda: (torch.zeros(2),))
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("one", torch.nn.Identity, lambda: (torch.zeros(2),))


def test_a_dynamic_dim_must_fit_an_input() -> None:
    registry = Registry()
    module = torch.nn.Linear(3, 3)
    wrong_name = registry.register("name", lambda: module, lambda: (torch.zeros(2, 3),), dynamic={"x": ("b", None)})
    with pytest.raises(ValueError, match="names no input"):
        wrong_name.export_shapes(module)
    wrong_rank = registry.register("rank", lambda: module, lambda: (torch.zeros(2, 3),), dynamic={"input": ("b",)})
    with pytest.raises(ValueError, match="2 axes"):
        wrong_rank.export_shapes(module)
