"""What is measured of a trained bridge: losses, greedy answers, tokens and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anyany.alignment.order import Draws
from anyany.alignment.samples import ListSource, Sample
from anyany.alignment.stage_tasks import Item
from anyany.alignment.training_state import set_training_mode
from anyany.bridges import Encoded, user_media
from anyany.language import DecodeRequest, DecodeSettings, generate
from anyany.messages import Message, Modality, TextPart
from anyany.pocket.bridge_training import BridgeTraining, CompareData


def measure(task: BridgeTraining, data: CompareData) -> dict[str, Any]:
    """The figures of a `RunResult` that come from its held-out sets."""
    fresh, never = data.fresh, data.never
    words, whole = _right(answers(task, fresh), fresh)
    unseen = _right(answers(task, never), never) if never is not None else (None, None)
    with torch.no_grad():
        items = task.items(fresh)
        media = [one for item in items for one in _encoded(item).values()]
        questions = [task.bridge.instructions(item.sample.messages) for item in items]
        asked = [q.get(i) for q, item in zip(questions, items, strict=True) for i in item.media]
        counts = [len(tokens) for tokens in task.bridge.project_batch(media, asked)]
    return {
        "loss": task.loss_on(fresh),
        "shuffled": task.loss_on(shuffled(fresh)),
        "never": task.loss_on(never) if never is not None else None,
        "accuracy": words,
        "exact": whole,
        "never_accuracy": unseen[0],
        "never_exact": unseen[1],
        "tokens": sum(counts) / len(counts),
    }


def step_memory(task: BridgeTraining, batch_size: int) -> int:
    """Bytes that a training step holds at once: counted, so the same on every machine.

    Weights of all parts, gradients and two moments of what learns, and the activations that one
    batch saves for its backward pass.
    """
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in task.module.parameters()}
    learns = sum(p.numel() * p.element_size() for p in task.module.parameters() if p.requires_grad)
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    set_training_mode(task.module)
    count = min(batch_size, task.source.num_samples or batch_size)
    chunk = ListSource([task.source.sample(index, 0) for index in range(count)])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = task.loss(task.items(chunk), Draws(0, "memory", epochs=[0], indices=[0]))
    assert output.total.requires_grad, "something learns"
    return sum(weights.values()) + 3 * learns + sum(saved.values())


def answers(task: BridgeTraining, source: ListSource) -> list[str]:
    """Greedy answers to every conversation of a set, in order."""
    bridge = task.bridge
    set_training_mode(task.module, training=False)
    requests: list[DecodeRequest] = []
    words: frozenset[Modality] = frozenset({"text"})
    with torch.no_grad():
        for item in task.items(source):
            asking = item.sample.messages[:-1]
            asked = bridge.instructions(asking)
            seen = _encoded(item)
            media = {i: bridge.project(one, asked.get(i)) for i, one in seen.items()}
            layout = bridge.layout(asking, media)
            prompt = bridge.embed(layout, media)
            budget = len(bridge.language.encode_text(_text(item.sample.messages[-1]))) + 4
            requests.append(DecodeRequest(prompt, words, budget, layout=layout, visual=media))
        decoded = generate(bridge.language, requests, DecodeSettings(16, batch_invariant=False))
    return [bridge.language.decode(one.token_ids).strip() for one in decoded]


def shuffled(source: ListSource) -> ListSource:
    """Every conversation with the media of the next one, where those are as many and alike."""
    moved = []
    for number, sample in enumerate(source.samples):
        other = source.samples[(number + 1) % source.num_samples]
        theirs = list(user_media(other.messages).values())
        mine = list(user_media(sample.messages).values())
        if [part.modality for part in mine] == [part.modality for part in theirs]:
            sample = _with_media(sample, theirs)
        moved.append(sample)
    return ListSource(moved)


def _with_media(sample: Sample, media: Sequence[Any]) -> Sample:
    coming = iter(media)
    messages = tuple(
        Message(
            message.role,
            tuple(p if isinstance(p, TextPart) else next(coming) for p in message.parts),
        )
        if message.role == "user"
        else message
        for message in sample.messages
    )
    return Sample(messages, sample.key)


def _encoded(item: Item) -> dict[int, Encoded]:
    """An item's media; a `BridgeTraining` has them encoded, whether their encoder learns or not."""
    return {index: one for index, one in item.media.items() if isinstance(one, Encoded)}


def _right(said: Sequence[str], source: ListSource) -> tuple[float, float]:
    """Share of words that stand where they should, and of whole answers."""
    right = total = whole = 0
    for answer, sample in zip(said, source.samples, strict=True):
        wanted, given = _text(sample.messages[-1]).split(), answer.split()
        right += sum(a == b for a, b in zip(given, wanted, strict=False))
        total += len(wanted)
        whole += given == wanted
    return right / total, whole / source.num_samples


def _text(message: Message) -> str:
    return message.text.strip()
