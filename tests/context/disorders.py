"""Conversations as agents really write them, and a dull judge of what is sent of them.

Not here: any code of the package. The judge knows what providers refuse, and nothing of groups.
"""

from collections import Counter
from typing import Any

from hypothesis import strategies as st

Message = dict[str, Any]

FORMS = ("chat", "items", "parts")
_WORDS = st.sampled_from(["yes", "look at the file", "an error in line 7", "é漢字 ok"])
_TEXTS = st.builds(lambda words, n: " ".join([words] * n), _WORDS, st.integers(1, 25))


def user(form: str, text: str) -> Message:
    return {
        "role": "user",
        "content": [{"type": "text", "text": text}] if form == "parts" else text,
    }


def answer(form: str, text: str) -> Message:
    if form == "items":
        content = [{"type": "output_text", "text": text}]
        return {"type": "message", "role": "assistant", "content": content}
    return {"role": "assistant", "content": text}


def calls(form: str, ids: list[str | None]) -> list[Message]:
    if form == "chat":
        made = [
            {"id": one, "type": "function", "function": {"name": "run", "arguments": "{}"}}
            for one in ids
        ]
        return [{"role": "assistant", "content": "", "tool_calls": made}]
    if form == "items":
        return [
            {"type": "function_call", "call_id": one, "name": "run", "arguments": "{}"}
            for one in ids
        ]
    parts = [{"type": "tool_use", "id": one, "name": "run", "input": {}} for one in ids]
    return [{"role": "assistant", "content": [{"type": "text", "text": "so"}, *parts]}]


def result(form: str, call_id: str | None, text: str) -> Message:
    if form == "chat":
        return {"role": "tool", "tool_call_id": call_id, "content": text}
    if form == "items":
        return {"type": "function_call_output", "call_id": call_id, "output": text}
    return {"role": "user", "content": [part_of(call_id, text)]}


def part_of(call_id: str | None, text: str) -> Message:
    return {"type": "tool_result", "tool_use_id": call_id, "content": text}


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Message], bool]:
    """With parallel, interrupted, missing, double, late, early and nameless results, ids that are
    used again in each turn, and results between two calls; and whether something came between a
    call and its results. Every result tells its number."""
    is_late = False
    is_reused = draw(st.booleans())
    form = draw(st.sampled_from(FORMS))
    said: list[Message] = []
    if draw(st.booleans()):
        said.append({"role": "system", "content": draw(_TEXTS)})
    late: list[Message] = []
    number = 0
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["user", "answer", "calls", "calls", "calls", "stray"]))
        if kind == "user":
            said.append(user(form, draw(_TEXTS)))
        elif kind == "answer":
            said.append(answer(form, draw(_TEXTS)))
        elif kind == "stray":
            said.append(result(form, draw(st.sampled_from([None, "nobody", "c1"])), draw(_TEXTS)))
        else:
            ids: list[str | None] = []
            for n in range(draw(st.integers(1, 3))):
                number += 1
                own = f"again{n}" if is_reused else f"c{number}"
                ids.append(draw(st.sampled_from([own] * 6 + [None, "again"])))
            results = [
                result(form, one, f"r{number}.{n}: {draw(_TEXTS)}") for n, one in enumerate(ids)
            ]
            fates = ["whole"] * 4 + [
                "some", "double", "early", "all early", "early and double", "late", "joined",
                "between",
            ]  # fmt: skip
            fate = draw(st.sampled_from(fates))
            thought = {"type": "reasoning", "encrypted_content": "x" * 40, "summary": []}
            made = ([thought] if form == "items" and draw(st.booleans()) else []) + calls(form, ids)
            if fate == "some":
                results = results[: draw(st.integers(0, len(results) - 1))]
            elif fate == "double":
                results = results + results[:1]
            elif fate == "early":
                made, results = results[:1] + made, results[1:]
            elif fate == "all early":
                made, results = results + made, []
            elif fate == "early and double":
                made = results[:1] + made
            elif fate == "between":
                made = []
                for one, answered in zip(ids, results, strict=True):
                    made += [*calls(form, [one]), answered]
                results = []
            elif fate == "late":
                # Of an id that is used again, nobody could tell whose they are.
                late += [one for one, id in zip(results, ids, strict=True) if str(id)[:1] == "c"]
                results = [one for one in results if one not in late]
                is_late = True
            elif fate == "joined" and form == "parts":
                joined = [part for one in results for part in one["content"]]
                extra = [{"type": "text", "text": "and?"}] if draw(st.booleans()) else []
                results = [{"role": "user", "content": joined + extra}]
            results = draw(st.permutations(results))
            if draw(st.integers(0, 5)) == 0 and results:
                results.insert(draw(st.integers(0, len(results))), user(form, draw(_TEXTS)))
                is_late = True
            said += [*made, *results]
        if late and draw(st.booleans()):
            said.append(late.pop(0))
    return said + late, is_late


# -- judging --------------------------------------------------------------------------------------


def refused(messages: list[Message]) -> list[str]:
    """What a provider would refuse: calls without a result right behind them, results of nothing,
    second ones, and thoughts with nothing behind them."""
    wrong: list[str] = []
    pending: Counter[str] = Counter()
    seen: set[str] = set()
    thinking = False
    for at, message in enumerate(messages):
        made, answered = ids_of(message)
        if answered:
            for one in answered:
                if one is None or not pending[one]:
                    wrong.append(f"{at}: a result of nothing: {one}")
                else:
                    pending[one] -= 1
        elif message.get("type") not in ("function_call", "reasoning"):
            wrong += [f"{at}: no result: {one}" for one in pending.elements()]
            pending.clear()
        for one in made:
            if one is None:
                wrong.append(f"{at}: a call without an id")
                continue
            if one in seen:
                wrong.append(f"{at}: an id that an earlier call has: {one}")
            seen.add(one)
            pending[one] += 1
        is_thought = message.get("type") == "reasoning"
        if thinking and not is_thought and not made and message.get("role") != "assistant":
            wrong.append(f"{at}: a thought with nothing behind it")
        thinking = is_thought
    wrong += [f"end: no result: {one}" for one in pending.elements()]
    return wrong + (["end: a thought with nothing behind it"] if thinking else [])


def ids_of(message: Message) -> tuple[list[str | None], list[str | None]]:
    """(of calls, of results)"""
    kind = message.get("type")
    if kind == "function_call":
        return [message["call_id"]], []
    if kind == "function_call_output":
        return [], [message["call_id"]]
    if message.get("role") == "tool":
        return [], [message.get("tool_call_id")]
    made: list[str | None] = [call["id"] for call in message.get("tool_calls") or ()]
    answered: list[str | None] = []
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if part.get("type") == "tool_use":
            made.append(part["id"])
        elif part.get("type") == "tool_result":
            answered.append(part["tool_use_id"])
    return made, answered
