"""SOURCE and --input to a module and its example inputs; every bad one is one clear line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from isomorph.convert.errors import UsageError, WeightError
from isomorph.convert.examples import build_examples
from isomorph.convert.sources import load_source

FACTORIES = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU())

def with_args():
    return net(), (torch.ones(2, 3),)

def with_kwargs():
    return net(), (), {"input": torch.ones(2, 3)}

class Class(nn.Module):
    def forward(self, ids, mask=None, *, scale):
        return ids * scale

class Nested:
    @staticmethod
    def make():
        return net()

instance = net()
number = 3

def raises():
    raise ValueError("no weights here\\nsecond line")

def exits():
    raise SystemExit(7)

def integer():
    return 3

def odd():
    return net(), torch.ones(1), 5

def needs(width):
    return nn.Linear(width, 2)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the module `factories`, forgotten afterwards."""
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    yield tmp_path
    for name in ("factories", "beside", "broken", "syntax", "imports"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("form", ["factories:net", "factories.py:net", "factories:Nested.make", "factories:instance"])
def test_forms_of_a_factory(form: str, here: Path) -> None:
    before = list(sys.path)
    source = load_source(form, inputs=["input=float32[b,3]"])
    assert isinstance(source.module, nn.Sequential)
    assert [tuple(a.shape) for a in source.args] == [(2, 3)]
    assert source.kwargs == {}
    assert source.dynamic_shapes == {"input": {0: "b"}}
    assert source.origin == form
    assert sys.path == before


def test_factory_brings_its_inputs(here: Path) -> None:
    assert load_source("factories:with_args").args[0].shape == (2, 3)
    source = load_source("factories:with_kwargs")
    assert source.args == ()
    assert source.kwargs["input"].shape == (2, 3)
    assert load_source("factories:with_args", inputs=["input=float32[7,3]"]).args[0].shape == (7, 3)


@pytest.mark.parametrize(
    ("returns", "args", "kwargs"),
    [
        ("torch.ones(4, 3)", 1, ()),
        ("(torch.ones(4, 3),)", 1, ()),
        ("[torch.ones(4, 3)]", 1, ()),
        ("{'input': torch.ones(4, 3)}", 0, ("input",)),
        ("((), {'input': torch.ones(4, 3)})", 0, ("input",)),
    ],
)
def test_example_inputs_beside_the_factory(returns: str, args: int, kwargs: tuple[str, ...], here: Path) -> None:
    text = f"import torch\nnet = torch.nn.ReLU\ndef example_inputs():\n    return {returns}\n"
    (here / "beside.py").write_text(text + 'dynamic_shapes = {"input": {0: "b"}}\n')
    source = load_source("beside:net")
    assert (len(source.args), tuple(source.kwargs)) == (args, kwargs)
    assert next(iter([*source.args, *source.kwargs.values()])).shape == (4, 3)
    assert source.dynamic_shapes == {"input": {0: "b"}}
    assert load_source("beside:net", inputs=["input=float32[5]"]).args[0].shape == (5,), "--input wins"


def test_weights(here: Path) -> None:
    state = {name: torch.full_like(value, 0.5) for name, value in nn.Sequential(nn.Linear(3, 4)).state_dict().items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, here / "w.ckpt")
    source = load_source("factories:net", weights="w.ckpt", inputs=["input=float32[b,3]"])
    assert (source.module[0].weight == 0.5).all()
    torch.save({"0.weight": torch.zeros(4, 4)}, here / "w.pt")
    with pytest.raises(WeightError, match=r"missing: 0\.bias.*0\.weight: has shape"):
        load_source("factories:net", weights="w.pt", inputs=["input=float32[b,3]"])


BAD = {
    "model": "is not understood; give model.pt2",
    "factories": "is not understood",
    "factories:": "is not understood",
    ":net": "is not understood|no module named",
    "weights.pth": "give the file as --weights weights.pth",
    "absent.pt2": "no such file",
    "absent:net": "no module named 'absent'",
    "factories.sub:net": "no module named 'factories.sub'",
    "absent.py:net": "no such file: absent.py",
    "factories:nets": "has no 'nets'; did you mean net",
    "factories:number": "is an object of type int, not a function or class",
    "factories:raises": r"raised ValueError: no weights here \(.*factories.py:\d+\)",
    "factories:exits": "raised SystemExit: 7",
    "factories:integer": "returned an object of type int; it must return",
    "factories:odd": r"returned a tuple of \(Sequential, Tensor, int\)",
    "factories:needs": "raised TypeError: needs.* missing 1 required positional argument",
    "factories:net": r"no example inputs; give --input \"input=float32",
    "broken:net": r"importing broken raised ZeroDivisionError: division by zero \(.*broken.py:2\)",
    "syntax:net": r"importing syntax raised SyntaxError: .*syntax.py:1",
    "imports:net": "importing imports raised ModuleNotFoundError: No module named 'nothing_of_that_name'",
    "hf:absent": "no such directory; hf: takes a local one",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_source(text: str, here: Path) -> None:
    (here / "broken.py").write_text("\n1 / 0\n")
    (here / "syntax.py").write_text("def (:\n")
    (here / "imports.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UsageError, match=BAD[text]) as caught:
        load_source(text)
    assert "\n" not in str(caught.value)


class Forward(nn.Module):
    """Every kind of argument, and three embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(100, 4), nn.Embedding(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(
        self,
        ids: torch.Tensor,
        kinds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        shifted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.calls += 1
        y = self.norm((self.words(ids) + self.kinds(kinds)).flatten(0, 1))
        return y if shifted is None else y + self.words(shifted + 1).sum()


SPECS = ["ids=int64[b,s]", "kinds=int32[b,s]", "attention_mask=int64[b,s]", "shifted=int64[b]"]


def test_integers_stay_inside_what_they_index() -> None:
    module = Forward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random_state = torch.get_rng_state()
    examples = build_examples(module, SPECS)
    assert examples.bounds == {"ids": (0, 99), "kinds": (0, 2), "attention_mask": (0, 1), "shifted": (0, 2)}
    for (name, (low, high)), value in zip(
        {k: examples.bounds[k] for k in inspect.signature(module.forward).parameters}.items(),
        examples.args,
        strict=True,
    ):
        assert low == value.min() <= value.max() == high, f"{name} reaches both ends: others take the range from it"
    assert examples.args[2].select(-1, 0).all(), "no row of a mask is empty"
    assert module.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items()), "nothing left behind"


def test_the_same_seed_gives_the_same_examples() -> None:
    specs = ["ids=int64[b,s]:0..50", "kinds=int64[b,s]:0..2"]
    one, two, three = (build_examples(Forward(), specs, seed).args for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[0], three[0])


def test_dtypes_and_shapes() -> None:
    class Any_(nn.Module):
        def forward(self, a, b, c, d, e):  # type: ignore[no-untyped-def]
            return a

    examples = build_examples(
        Any_(), ["a=bfloat16[2,3]", "b=bool[400]", "c=uint8[]", "d=int8[500]:-3..300", "e=float64[b,0]"]
    )
    a, b, c, d, e = examples.args
    assert [x.dtype for x in examples.args] == [torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.float64]
    assert 100 < b.sum() < 300
    assert c.shape == ()
    assert (d.min(), d.max()) == (-3, 127), "cut to the dtype"
    assert (a.shape, e.shape[1]) == ((2, 3), 0)


def test_nested_arguments_and_kwargs() -> None:
    class Nest(nn.Module):
        def forward(self, batch, *more, flag=None, **rest):  # type: ignore[no-untyped-def]
            return batch

    examples = build_examples(
        Nest(),
        [
            "rest_of=float32[b]",
            "batch.image=float32[b,2]",
            "batch.box.1=float32[4]",
            "batch.box.0=float32[n]",
            "more.0=float32[b]",
            "more.1=float32[3]",
            "flag=bool[]",
        ],
    )
    (batch, first, second), kwargs = examples.args, examples.kwargs
    assert {name: type(value) for name, value in batch.items()} == {"image": torch.Tensor, "box": tuple}
    assert [len(x) for x in batch["box"]] == [7, 4]
    assert (len(batch["image"]), first.shape, second.shape) == (5, (5,), (3,)), "one name is one size"
    assert list(kwargs) == ["flag", "rest_of"]
    assert examples.dynamic_shapes == {
        "batch": {"image": {0: "b"}, "box": ({0: "n"}, None)},
        "more": ({0: "b"}, None),
        "flag": None,
        "rest": {"rest_of": {0: "b"}},
    }
    with pytest.raises(UsageError, match=r"name them more\.0, more\.1"):
        build_examples(Nest(), ["batch=float32[b]", "more=float32[b]"])
    with pytest.raises(UsageError, match="must be 0 to 0"):
        build_examples(Nest(), ["batch.1=float32[b]"])


def test_fixed_dims_are_no_request_for_a_free_batch() -> None:
    examples = build_examples(nn.ReLU(), ["input=float32[1,3]"])
    assert examples.dynamic_shapes == {"input": None}


def test_a_gap_in_the_arguments_is_bound_by_keyword() -> None:
    examples = build_examples(Forward(), ["ids=int64[b,s]", "shifted=int64[b]", "kinds=int64[b,s]"])
    assert len(examples.args) == 2
    assert list(examples.kwargs) == ["shifted"]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (["ids=int64[b]", "kind=int64[b]"], r"forward has no argument 'kind'; it has: ids, kinds, attention_mask"),
        (["ids=int64[b]"], r"Forward.forward needs kinds; add --input \"kinds=DTYPE\[DIMS\]\""),
    ],
)
def test_names_that_do_not_fit(specs: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_examples(Forward(), specs)


@pytest.mark.parametrize("zoo", ["timm", "torchvision"])
def test_a_zoo_that_is_not_installed(zoo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the libraries are there, their absence is played: None in sys.modules makes the import fail."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=r"pip install.*torchvision") as caught:
        load_source(f"{zoo}:resnet18")
    assert "\n" not in str(caught.value)
