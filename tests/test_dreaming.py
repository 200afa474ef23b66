"""Dreaming-v0: whose turn is written, on real templates; sanitising; the game, its measures and its rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import _bpe
import msgspec
import numpy as np
from _endpoint import Server
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from dream_envs import registry
from dream_envs.adapters.export import rows
from dream_envs.agents.engines.chat import PLAIN
from dream_envs.agents.engines.endpoint import Endpoint
from dream_envs.agents.engines.local import LocalAgent
from dream_envs.agents.training.rows import RowBuilder
from dream_envs.agents.training.settings import RowSettings
from dream_envs.core import Action, DreamEnvsError, Episode, Limits, Request, Seat, Task, decode_episode, encode
from dream_envs.envs import dream_facts as facts
from dream_envs.envs.dreaming import Dreaming
from dream_envs.play import as_agent, ask, play, rollout, score
from dream_envs.report import samples
from dream_envs.rewards.base import as_reward
from dream_envs.seeds import stream
from dream_envs.testing import check
from dream_envs.testing.cores import HOSTILE

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|system|>Be kind.<|end|>\n{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RIVERS = "Name three rivers of Asia, and say how long each of them is."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bpe.save(tmp_path_factory.mktemp("bpe"))


def with_template(folder: Path, template: str, **more: Any) -> LocalAgent:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return LocalAgent(model, tokenizer=_bpe.tokenizer(template), **more)


def dream(seed: int, messages: Any = (), tokens: int = 12, **more: Any) -> Request:
    return Request(
        messages=list(messages),
        agent="dreamer_0",
        role="dreamer",
        seed=seed,
        limits=Limits(tokens),
        **{"writes": "user", **more},
    )


# --------------------------------------------------------------------------------------------- whose turn is written


@pytest.mark.parametrize(("template", "system", "wanted", "end"), [
    (_bpe.TEMPLATE, "", "<|user|>", "<|assistant|>"), (CHATML, "", "<|system|>Be kind.<|end|>\n<|user|>", "<|end|>"),
    (CHATML, "Sums.", "<|system|>Sums.<|end|>\n<|user|>", "<|end|>"),
])  # fmt: skip
def test_the_bare_template_ends_before_the_users_words(
    folder: Path, template: str, system: str, wanted: str, end: str
) -> None:
    agent = with_template(folder, template, system=system)
    assert (
        agent.tokenizer.decode(agent.chat.encode_user([])) == wanted == agent.tokenizer.decode(agent.encode([], "user"))
    )
    assert agent.chat.user_ends[0] == agent.tokenizer.convert_tokens_to_ids(end)
    assert set(agent.chat.ends) <= set(agent.chat.user_ends)


@given(st.text(max_size=20).filter(lambda t: not t.isspace()), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_was_said_before_stands_before_and_no_word_moves_the_cut(words: str, again: bool) -> None:
    """Whatever was said, also the mark that the cut is found by."""
    chat = _CHATS.setdefault("bpe", LocalAgent(str(_bpe_folder())).chat)
    said: Any = [{"role": "user", "content": words + "XQZ" * again}, {"role": "assistant", "content": "XQZZ"}]
    before = chat.tokenizer.decode(chat.encode_user(said))
    whole = chat.tokenizer.decode(chat.encode([*said, {"role": "user", "content": "and now?"}]))
    assert whole.startswith(before) and whole[len(before) :].startswith("and now?")
    assert before.endswith("<|user|>")


_CHATS: dict[str, Any] = {}


def _bpe_folder() -> Path:
    import tempfile

    return _bpe.save(Path(tempfile.mkdtemp()))


@pytest.mark.parametrize(("template", "told"), [
    (PLAIN, "no special token"),
    ("{% for m in messages %}<|user|>{{ m['content'] * 2 }}<|end|>{% endfor %}<|assistant|>", "something other"),
    ("{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}<|assistant|>", "nothing in front"),
])  # fmt: skip
def test_a_template_that_hides_the_users_turn_is_refused_in_a_line_and_still_replies(
    folder: Path, template: str, told: str
) -> None:
    agent = with_template(folder, template)
    with pytest.raises(DreamEnvsError, match=told) as caught:
        agent.act([dream(0)])
    assert "\n" not in str(caught.value)
    assert len(agent.act([dream(0, [{"role": "user", "content": "a"}], writes="assistant")])) == 1
    with pytest.raises(DreamEnvsError, match="'assistant' or 'user'"):
        agent.act([dream(0, writes="system")])


def test_a_batch_of_both_kinds_is_what_each_is_alone(folder: Path) -> None:
    agent = LocalAgent(str(folder))
    said: Any = [{"role": "user", "content": "Compute 3 + 4"}]
    mixed = [
        dream(i, [] if i % 3 else said[:0], 10) if i % 2 else dream(i, said, 10, writes="assistant") for i in range(8)
    ]
    together = agent.act(mixed)
    assert [agent.act([r])[0].token_ids for r in mixed] == [a.token_ids for a in together]
    for request, action in zip(mixed, together, strict=True):
        ids, ends = action.token_ids or [], agent.chat.stops(request)
        assert not set(ids[:-1]) & set(ends) and (ids[-1] in ends) == (action.finish_reason == "stop")
        assert action.usage.prompt_tokens == len(agent.encode(request.messages, request.writes))
    greedy = agent.decoding(temperature=0)  # equal seeds: only the prompt differs
    assert greedy.act([dream(1)])[0].logprobs is not None


def test_a_user_turn_ends_at_the_users_end(folder: Path) -> None:
    """The assistant's header, which ends a user's words in this template, does not end a reply."""
    agent = LocalAgent(str(folder))
    header = agent.tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert header in agent.chat.user_ends and header not in agent.ends
    forced = agent.constrained(lambda request: [["<|assistant|>"]] * 3)
    (user,), (reply,) = (
        forced.act([dream(0)]),
        forced.act([dream(0, [{"role": "user", "content": "a"}], writes="assistant")]),
    )
    assert user.token_ids == [header] and user.finish_reason == "stop" and (reply.token_ids or [])[:3] == [header] * 3


def test_an_endpoint_needs_the_tokenizer_and_asks_the_other_route(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    server = Server(lambda messages: "7")
    bare = Endpoint(server.url)
    with pytest.raises(DreamEnvsError, match="tokenizer=FOLDER"):
        ask(bare, [dream(0)])
    game = Dreaming()
    with pytest.warns(UserWarning, match="tokenizer=FOLDER"):
        (lost,) = rollout(game, {"dreamer": bare, "responder": "oracle"}, 1, reward="dreaming")
    assert lost.scores["dreamer_0"].status == "error" and lost.scores["responder_0"].status == "abstain"
    server.complete = lambda body: (seen.append(body), "Why is it so?")[1]
    agent = Endpoint(server.url, tokenizer=str(folder), token_ids=True, template={"enable_thinking": False})
    (action,) = ask(agent, [dream(5)])
    chat = LocalAgent(str(folder)).chat
    assert action.text == "Why is it so?" and action.token_ids == [3, 1] and action.logprobs == [-0.5, -0.25]
    (body,) = seen
    assert body["prompt"] == list(chat.encode_user([])) and body["stop_token_ids"] == chat.user_ends
    assert "messages" not in body and "chat_template_kwargs" not in body and body["logprobs"] == 0 and body["seed"] == 5


def test_a_turn_keeps_whose_it_is_and_training_goes_on_behind_the_bare_template(folder: Path) -> None:
    agent, game = LocalAgent(str(folder)), Dreaming(dream_tokens=12, reply_tokens=8)
    episodes = score(list(rollout(game, {"dreamer": agent, "responder": agent}, 6, seed="t")), as_reward("measured"))
    assert {(t.role, t.writes) for e in episodes for t in e.turns} <= {("dreamer", "user"), ("responder", "assistant")}
    assert all(decode_episode(encode(e)) == e for e in episodes)
    old = json.loads(encode(episodes[0]))
    for turn in old["turns"]:
        del turn["writes"]  # an episode of an earlier version
    assert decode_episode(json.dumps(old)).turns[0].writes == "assistant"
    builder = RowBuilder(game, RowSettings(), "group", frozenset({"dreamer"}), agent.encode, agent.completion)
    made = builder.rows(episodes, stream("rows"))
    bare = list(agent.chat.encode_user([]))
    assert made and all(list(row.prompt) == bare for row in made)


def test_what_scores_or_shows_a_users_turn_reads_it_as_one(folder: Path) -> None:
    class Seen:
        calls = 0

        def logits(self, conversations: Any) -> Any:
            seen.extend(conversations)
            return [np.array([0.5])] * len(conversations)

    seen: list[Any] = []
    episode = played(RIVERS, reward=registry.create("rewards", "reward_model", model=Seen(), role="dreamer"))
    assert seen == [[{"role": "user", "content": RIVERS}]] and episode.scores["dreamer_0"].value == 0.5
    agent = LocalAgent(str(folder))
    assert agent.probabilities([dream(0)], ["a"]) is None
    assert agent.probabilities([dream(0, [{"role": "user", "content": "a"}], writes="assistant")], ["a"]) is not None
    bare = msgspec.structs.replace(episode, tasks=[])
    assert samples._sample("x", bare).prompt == "" and next(iter(rows(episode)))["completion"][0]["role"] == "user"


def test_functions_are_given_the_request_where_they_ask_for_it() -> None:
    def whole(request: Request) -> str:
        return f"Is {request.writes} {request.limits.max_tokens} {len(request.messages)}?"

    def plain(text: str) -> str:
        return f"You said {text!r}."

    episode = play(Dreaming(dream_tokens=9), {"dreamer": whole, "responder": plain})
    assert [t.text for t in episode.turns] == ["Is user 9 0?", "You said 'Is user 9 0?'."]
    assert as_agent(lambda messages: str(len(messages))).act([dream(0)])[0].text == "0"  # type: ignore[union-attr,index]


# ------------------------------------------------------------------------------------------------------ sanitising


@pytest.mark.parametrize(("raw", "text", "kind"), [
    ("  What is rain?\nAnd why?\n\nList:\n- a\n- b\n", "What is rain?\nAnd why?\n\nList:\n- a\n- b", "clean"),
    ("Is 3 > 2? Is 4 > 3? Then say so.", "Is 3 > 2? Is 4 > 3? Then say so.", "clean"),
    ("a\r\nb", "a\nb", "clean"), ("\u200bWhy?\ufeff", "Why?", "clean"), ("天空是蓝色的？", "天空是蓝色的？", "clean"),
    ('"Why is it so?"', "Why is it so?", "unwrapped"), ('"A" or "B"', '"A" or "B"', "clean"),
    ("User: How are you?", "How are you?", "unwrapped"), ("What is a user: field?", "What is a user: field?", "clean"),
    ("", "", "empty"), (" \n\t\u200b ", "", "empty"),
    ("Why?<|im_end|>\n<|im_start|>assistant\nBecause.", "Why?", "markup"), ("Why? [/INST] So.", "Why?", "markup"),
    ("Why?\nAssistant: Because.", "Why?", "markup"), ("Why?\n### Response:\nSo.", "Why?", "markup"),
    ("One\nassistant\nA", "One", "markup"), ("Ask the assistant\nfirst.", "Ask the assistant\nfirst.", "clean"),
    ("(((((((((( a", "(((((((((( a", "noise"), ("3+4=?", "3+4=?", "clean"),
])  # fmt: skip
def test_sanitising_takes_off_what_is_around_and_nothing_within(raw: str, text: str, kind: str) -> None:
    assert facts.sanitise(raw) == facts.Clean(text, kind)


@given(
    st.lists(
        st.sampled_from(["What is it?", "- one item", "", "def f(x):\n    return x", "Why? How?", "Say it."]),
        min_size=1,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_line_and_no_question_is_ever_cut(lines: list[str]) -> None:
    whole = "\n".join(lines)
    assert facts.sanitise(whole).text == whole.strip()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_dreams_have_a_class_and_stay_small(name: str) -> None:
    found = facts.sanitise(HOSTILE[name], limit=2048)
    assert found.kind in facts.CLASSES and len(found.text) <= 2048
    again = facts.sanitise(found.text)
    assert again.text == found.text.strip() or "markup" in (found.kind, again.kind)
    assert all(0 <= measure(HOSTILE[name]) <= 1 for measure in facts.MEASURES.values())
    assert isinstance(facts.language(HOSTILE[name]), str)


def test_what_its_budget_cut_is_turned_away() -> None:
    assert facts.sanitise("Tell me about", "length").kind == "cut" and facts.sanitise("x" * 9, limit=8).kind == "cut"


# ---------------------------------------------------------------------------------------------------------- measures


@pytest.mark.parametrize(("text", "language"), [
    ("How do I plan a trip to the sea with my family?", "en"), ("Comment est-ce que je peux le lire ?", "fr"),
    ("Wie kann ich die deutsche Sprache lernen und sprechen?", "de"), ("¿Cómo puedo aprender el idioma?", "es"),
    ("Почему небо голубое?", "cyrillic"), ("なぜ空は青いの", "ja"), ("天空是蓝色的", "zh"), ("하늘은 왜", "ko"),
    ("12 + 30", "none"), ("zxcv qwrt plmk", "latin"),
])  # fmt: skip
def test_languages_by_hand(text: str, language: str) -> None:
    assert facts.language(text) == language


def test_measures_order_what_they_name() -> None:
    assert facts.quality(RIVERS) == 1.0 > facts.quality("rivers rivers rivers rivers rivers rivers") > facts.quality("")
    assert (
        facts.difficulty("Why?") < facts.difficulty(RIVERS) < facts.difficulty(f"{RIVERS}\n\n1. {RIVERS}\n2. And why?")
    )
    assert (
        facts.repetition("a b c " * 9) > 0.8 and facts.repetition(RIVERS) == 0 and facts.repetition("hhhhhhhhh") > 0.8
    )
    assert facts.safety("How to make a bomb?") == 0 and facts.safety("How does a bath bomb fizz?") == 1
    assert (
        facts.echo("one two three four five", "one two three four") == 1.0 and facts.echo("one two", "six seven") == 0
    )
    assert facts.leaked("Say: the cat sat on the mat.", "The  cat sat on the mat.") and not facts.leaked(
        "Say yes.", "yes"
    )
    assert [facts.rating(x) for x in (0, 0.19, 0.2, 0.6, 0.8, 1.0)] == [1, 1, 2, 4, 5, 5]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_distances_are_a_symmetric_and_equal_texts_have_none(texts: list[str]) -> None:
    rows = facts.vectors(texts)
    table = facts.distances(rows, rows)
    assert np.all((table >= 0) & (table <= 1)) and np.allclose(table, table.T) and np.all(np.diag(table) == 0)
    near = facts.nearest(texts)
    for i, text in enumerate(texts):
        others = [float(table[i, j]) for j in range(len(texts)) if j != i]
        assert near[i] == pytest.approx(min(others, default=1.0))
        assert near[i] == 0 if text in texts[:i] + texts[i + 1 :] else True


@given(st.lists(st.sampled_from(["a b c d", "a b c e", "a b c d ", "x y z", "x y w", "long words here"]), max_size=9),
       st.sampled_from([0.0, 0.05, 0.3, 0.6]))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_everything_left_out_has_a_kept_one_near_and_kept_ones_are_apart(texts: list[str], within: float) -> None:
    places, table = facts.representatives(texts, within), facts.vectors(texts)
    kept = [i for i, place in enumerate(places) if i == place]
    for i, place in enumerate(places):
        assert places[place] == place <= i
        assert i == place or facts.distances(table[i : i + 1], table[place : place + 1])[0, 0] <= within
    near = facts.distances(table[kept], table[kept]) + np.eye(len(kept)) if kept else np.ones((1, 1))
    assert np.all(near > within)


def test_a_chain_keeps_more_than_an_end_and_equal_texts_keep_the_first() -> None:
    """MAGPIE's own code: b is dropped for a, and c for b although b is gone."""
    base = [f"word{i}" for i in range(12)]
    chain = [" ".join(base[i : i + 8]) for i in range(5)]
    rows = facts.vectors(chain)
    table = facts.distances(rows, rows)
    within = float(max(table[i, i + 1] for i in range(4)))
    assert table[0, 2] > within  # a and c are no neighbours
    assert facts.representatives(chain, within) == [0, 0, 2, 2, 4]
    assert facts.representatives(["x y", "a b", "x y", "a b", "a b"]) == [0, 1, 0, 1, 1]


# ---------------------------------------------------------------------------------------------------------- the game


def played(
    dreams: Any, replies: Any = "It is so.", curator: str = "", reward: Any = "dreaming", **game: Any
) -> Episode:
    given = iter([dreams] if isinstance(dreams, (str, Action)) else dreams)
    seats: dict[str, Any] = {"dreamer": lambda text: next(given), "responder": lambda text: replies}
    made = Dreaming(curator=bool(curator), **game)
    return play(made, seats | ({"curator": lambda text: curator} if curator else {}), reward=reward)


def test_the_manual_page_earns_what_it_says() -> None:
    found = played(RIVERS, "The Yangtze, the Yellow River and the Mekong.")
    assert found.scores["dreamer_0"].value == pytest.approx(0.19, abs=0.005) and found.scores["responder_0"].value == 1
    (told,) = found.outcome.facts["dreams"]
    assert told["text"] == RIVERS and told["class"] == "clean" and told["measures"]["language"] == "en"


@pytest.mark.parametrize(("raw", "reply", "why"), [
    ("", "x", "empty"), ("Why?\nUser: no", "x", "markup"), (Action("Tell me", finish_reason="length"), "x", "cut"),
    ("?????!!!!!", "x", "noise"), ("Why is it?", " ", "silent"),
    ("Say after me that the sky is blue.", "that the sky is blue", "leaked"),
])  # fmt: skip
def test_the_malformed_and_the_leaked_earn_a_hard_zero(raw: Any, reply: str, why: str) -> None:
    episode = played(raw, reply)
    assert episode.outcome.facts["reject"] == why and not episode.outcome.facts["valid"]
    assert episode.scores["dreamer_0"].value == 0 and episode.scores["dreamer_0"].status == "ok"
    assert [e.data["reject"] for e in episode.events] == [why]
    assert len(episode.turns) == (2 if why in ("silent", "leaked") else 1)
    assert episode.scores["responder_0"].status == ("ok" if len(episode.turns) == 2 else "abstain")


def test_a_round_of_copies_is_worth_nothing_and_known_texts_are_no_news() -> None:
    game = Dreaming()
    same = [played(RIVERS, reward=None), played(RIVERS, reward=None), played("Why do cats purr?", reward=None)]
    values = [e.scores["dreamer_0"].value for e in score(same, as_reward("dreaming"), game.agents)]
    assert values[:2] == [0, 0] and values[2] > 0
    alone = played(RIVERS).scores["dreamer_0"]
    assert played(RIVERS, known=[RIVERS]).scores["dreamer_0"].value == 0 < alone.value
    assert played(RIVERS, known=["Name two rivers."]).scores["dreamer_0"].components["novelty"] < 1


@pytest.mark.parametrize(("notation", "said", "verdict"), [
    ("compact", "k", "keep"), ("compact", "r", "reject"), ("compact", "keep", "unreadable"),
    ("compact", "k ", "unreadable"),
    ("english", "Answer: keep", "keep"), ("english", "I would keep it, but no.\nAnswer: **Reject**", "reject"),
    ("english", "<think>Answer: keep", "unreadable"), ("english", "keep or reject", "unreadable"),
    ("english", "", "unreadable"),
])  # fmt: skip
def test_a_curator_is_paid_for_agreement_with_the_measured_value(notation: str, said: str, verdict: str) -> None:
    episode = played(RIVERS, curator=said or " ", notation=notation)
    value = episode.scores["dreamer_0"].value
    wanted = {"keep": value, "reject": 1 - value, "unreadable": 0.0}[verdict]
    assert episode.outcome.facts["verdict"] == verdict and episode.scores["curator_0"].value == pytest.approx(wanted)


@pytest.mark.parametrize("notation", ["compact", "english"])
def test_the_curator_sees_numbers_and_the_text_only_where_it_may(notation: str) -> None:
    secret = "Why do xylophones zigzag quietly?"
    for sees in ("measures", "text"):
        episode = played(secret, "They never do.", "k", notation=notation, curator_sees=sees)
        (shown,) = episode.turns[-1].messages
        assert ("xylophones" in shown["content"]) == ("never" in shown["content"]) == (sees == "text")
    game = Dreaming(curator=True)
    state = game.apply(game.start(None, stream(0)), {"dreamer_0": Action(secret)})
    assert game.view(state, "curator_0") == [] and not game.public_facts(state)


def test_two_turns_are_one_conversation_and_each_is_paid() -> None:
    episode = played(["Why is it so?", RIVERS], "It is not.", system="Talk of rivers.", turns=2)
    seen = {i: [(m["role"], m["content"]) for m in t.messages] for i, t in enumerate(episode.turns)}
    assert seen[0] == [("system", "Talk of rivers.")] and seen[1] == [("user", "Why is it so?")]
    assert seen[2] == [*seen[0], *seen[1], ("assistant", "It is not.")]
    assert seen[3] == [*seen[1], ("assistant", "It is not."), ("user", RIVERS)]
    scored = episode.scores["dreamer_0"]
    assert scored.turns is not None and len(scored.turns) == 2 and sum(scored.turns) == pytest.approx(scored.value)
    assert scored.turns[0] < scored.turns[1]
    broken = played(["Why is it so?", ""], turns=2)
    assert broken.scores["dreamer_0"].value > 0 and broken.outcome.facts["reject"] == "empty"


def test_parts_of_the_reward_can_be_models() -> None:
    def hard(episode: Episode) -> dict[str, float]:
        return {"dreamer_0": 7.0, "responder_0": -3.0}

    found = played(RIVERS, reward=registry.create("rewards", "dreaming", difficulty=hard, responder=hard)).scores
    assert found["dreamer_0"].value == 1.0 and found["responder_0"].value == -3.0
    nothing = registry.create("rewards", "dreaming", difficulty=lambda episode: {"dreamer_0": None})
    assert played(RIVERS, reward=nothing).scores["dreamer_0"].status == "abstain"
    assert played("", reward=nothing).scores["dreamer_0"].value == 0  # malformed whatever a judge would say
    judged = registry.create(
        "rewards", "dreaming",
        difficulty=registry.create("rewards", "judge", engine=lambda text: "Verdict: 4", role="dreamer", criteria="?"),
    )  # fmt: skip
    assert played(RIVERS, reward=judged).scores["dreamer_0"].value == pytest.approx(0.4)
    assert (
        played(RIVERS, reward=registry.create("rewards", "measured", measure="language")).scores["dreamer_0"].value == 1
    )
    with pytest.raises(DreamEnvsError, match="measure='lenght'"):
        registry.create("rewards", "measured", measure="lenght")


@pytest.mark.parametrize("arguments", [
    {"turns": 2, "curator": True}, {"curator": True, "notation": "compact", "system": "Sums."},
    {"curator": True, "curator_sees": "text"},
])  # fmt: skip
def test_other_arrangements_pass_the_kit(arguments: dict[str, Any]) -> None:
    report = check("Dreaming-v0", skip=("process_determinism", "vector_text"), **arguments)
    assert report.ok, str(report)


@pytest.mark.parametrize(("arguments", "told"), [
    ({"turns": 3}, "turns=3"), ({"system": 5}, "system=5"), ({"known": "text"}, "a list of texts"),
    ({"curator_sees": "all"}, "'measures' or 'text'"), ({"notation": "x"}, "notation='x'"),
    ({"dream_tokens": 0}, "dream_tokens=0"),
])  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(DreamEnvsError, match=told) as caught:
        Dreaming(**arguments)
    assert "\n" not in str(caught.value)
    with pytest.raises(DreamEnvsError, match="starts from nothing"):
        Dreaming().start(Task(family="other", level=1, prompt="x"), stream(0))


def test_seats_say_whose_turn_it_is() -> None:
    game = Dreaming(curator=True)
    state, asked = game.start(None, stream(0)), list[Seat]()
    for said in ("Is it so?", "It is.", "Answer: keep"):
        (seat,) = game.turns(state)
        asked.append(seat)
        state = game.apply(state, {seat.agent: Action(said)})
    assert [(s.role, s.writes) for s in asked] == [
        ("dreamer", "user"),
        ("responder", "assistant"),
        ("curator", "assistant"),
    ]
    assert game.outcome(state) is not None and game.turns(state) == []
    assert msgspec.structs.asdict(asked[0])["writes"] == "user"
