"""What a reader sees adds up to the text; stop strings never show."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_toys import byte_tokenizer, llama_tokenizer, word_tokenizer

from anyany.language.text_stream import TextStream, decode_text

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": functools.cache(byte_tokenizer),
    "llama": functools.cache(llama_tokenizer),
    "words": functools.cache(word_tokenizer),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_deltas_add_up_to_the_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=25))
    stream = TextStream(tokenizer)
    shown = "".join(stream.push(i) for i in ids) + stream.finish()
    assert shown == stream.text == decode_text(tokenizer, ids)


def test_a_letter_of_several_tokens_comes_whole() -> None:
    tokenizer = TOKENIZERS["bytes"]()
    ids = tokenizer("né €😀", add_special_tokens=False)["input_ids"]
    assert len(ids) > 5
    stream = TextStream(tokenizer)
    deltas = [stream.push(i) for i in ids]
    assert "".join(deltas) == "né €😀"
    assert all("\ufffd" not in delta for delta in deltas)


def test_a_stop_string_is_held_back_and_rolled_back() -> None:
    tokenizer = TOKENIZERS["bytes"]()
    ids = tokenizer("hi #1\n##a\n###bc", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer, ["\n###"])
    shown = ""
    for token_id in ids:
        shown += stream.push(token_id)
        assert "hi #1\n##a".startswith(shown)
        if stream.stopped:
            break
    assert stream.stopped
    assert shown + stream.finish() == stream.text == "hi #1\n##a"
    assert decode_text(tokenizer, stream.token_ids) == "hi #1\n##a"


def test_what_only_looked_like_a_stop_is_shown_in_the_end() -> None:
    tokenizer = TOKENIZERS["bytes"]()
    stream = TextStream(tokenizer, ["###"])
    ids = tokenizer("a ##", add_special_tokens=False)["input_ids"]
    shown = "".join(stream.push(i) for i in ids)
    assert shown == "a "
    assert stream.finish() == "##"
    assert not stream.stopped
