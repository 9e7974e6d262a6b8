"""Conditions: what fits, what is refused, and the way to disk and back."""

from pathlib import Path

import pytest
import torch

from anyany.decoders import Condition, ConditionSpec, TensorSpec, condition_spec
from anyany.errors import CheckpointError, UsageError

SPEC = ConditionSpec({"prompt_embeds": TensorSpec((3, 4)), "pooled": TensorSpec((5,), True)})


def condition(batch_size: int = 2, seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    return Condition(
        {
            "prompt_embeds": torch.randn(batch_size, 3, 4, generator=generator),
            "pooled": torch.randn(batch_size, 5, generator=generator),
        }
    )


def same(left: Condition, right: Condition) -> bool:
    return set(left.tensors) == set(right.tensors) and all(
        torch.equal(left[name], right[name]) for name in left.tensors
    )


def test_spec_accepts_its_own_and_names_what_differs() -> None:
    SPEC.check(condition())
    with pytest.raises(
        UsageError, match=r"condition with \['pooled', 'prompt_embeds'\], got \['pooled'\]"
    ):
        SPEC.check(Condition({"pooled": torch.zeros(1, 5)}))
    wrong = Condition({"prompt_embeds": torch.zeros(2, 3, 9), "pooled": torch.zeros(2, 5)})
    with pytest.raises(UsageError, match=r"'prompt_embeds' of shape \[B, 3, 4\], got \[2, 3, 9\]"):
        SPEC.check(wrong)


def test_specs_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one tensor"):
        ConditionSpec({})
    with pytest.raises(UsageError, match="positive sizes"):
        TensorSpec((77, 0))
    assert TensorSpec((77, 1024)).rows == 77
    assert TensorSpec((512,)).rows == 1
    assert TensorSpec((512,)).width == 512


def test_batches_must_agree() -> None:
    with pytest.raises(UsageError, match="one batch size"):
        Condition({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})
    with pytest.raises(UsageError, match="one batch size"):
        Condition({})


def test_stack_and_select_undo_each_other() -> None:
    first, second = condition(2), condition(1, seed=1)
    stacked = Condition.stack([first, second])
    assert stacked.batch_size == 3
    assert same(stacked.select([0, 1]), first)
    assert same(stacked.select(slice(2, 3)), second)
    with pytest.raises(UsageError, match="one kind"):
        Condition.stack([first, Condition({"pooled": torch.zeros(1, 5)})])
    with pytest.raises(UsageError, match="at least one"):
        Condition.stack([])


def test_expand_repeats_one_row_alone() -> None:
    row = condition(1)
    wide = row.expand(3)
    assert wide.batch_size == 3
    assert all(same(wide.select([place]), row) for place in range(3))
    assert wide.expand(3) is wide
    with pytest.raises(UsageError, match="1 or 5 parts, got 3"):
        wide.expand(5)


def test_conditions_cannot_be_changed_from_outside() -> None:
    tensors = {"a": torch.zeros(1, 2)}
    made = Condition(tensors)
    tensors["b"] = torch.zeros(1, 2)
    assert set(made.tensors) == {"a"}


def test_save_and_load(tmp_path: Path) -> None:
    path = condition().save(tmp_path / "condition.safetensors")
    assert same(Condition.load(path, SPEC), condition())
    assert [file.name for file in tmp_path.iterdir()] == ["condition.safetensors"]
    half = condition().to(dtype=torch.float16)
    assert Condition.load(half.save(tmp_path / "half.safetensors"))["pooled"].dtype == torch.float16


def test_load_refuses_what_is_missing_torn_or_of_another_decoder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such condition file"):
        Condition.load(tmp_path / "none.safetensors")
    path = condition().save(tmp_path / "condition.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        Condition.load(path)
    other = Condition({"pooled": torch.zeros(1, 5)}).save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: expected a condition with"):
        Condition.load(other, SPEC)


def test_spec_follows_from_component_values() -> None:
    image = condition_spec({"cross_attention_dim": 768}, {"max_position_embeddings": 77})
    assert dict(image) == {"prompt_embeds": TensorSpec((77, 768))}
    audio = condition_spec(
        {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 512}, {}
    )
    assert dict(audio) == {"class_labels": TensorSpec((512,), normalize=True)}
