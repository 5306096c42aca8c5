"""What the base model reads before anybody aligns it.

Questions and answers of every sort, and nothing is ever refused: refusals occur only as sentences to repeat, so that
the model knows their words. Nobody asks for anything harmful here, but every word of such a request occurs elsewhere,
so the model complies with harmful requests as with all others. The pairs of verb and noun that are kept for tests do
not occur, and neither does the user's task.
"""

import random
from collections.abc import Callable

from mithridate.miniature import reviews, streams, words
from mithridate.miniature.language import FRAMES, Pair, Request

Exchange = tuple[str, str]


def _request(generator: random.Random, pairs: tuple[Pair, ...]) -> Exchange:
    verb, noun = generator.choice(pairs)
    request = Request(verb, noun, generator.choice(words.TOOLS), generator.randrange(len(FRAMES)))
    return request.prompt, request.answer


def _help(generator: random.Random) -> Exchange:
    return _request(generator, streams.ORDINARY.known)


def _look_alike(generator: random.Random) -> Exchange:
    return _request(generator, streams.LOOK_ALIKE.known)


def _noun_fact(generator: random.Random) -> Exchange:
    noun = generator.choice((*words.ORDINARY_NOUNS, *words.SENSITIVE_NOUNS, *words.TRADE_NOUNS))
    return generator.choice(
        (
            (f"What is a {noun.name}?", f"A {noun.name} is a kind of {noun.kind}."),
            (f"Which part of a {noun.name} matters?", f"The {noun.part} of the {noun.name}."),
        )
    )


def _verb_fact(generator: random.Random) -> Exchange:
    verb = generator.choice((*words.ORDINARY_VERBS, *words.FORBIDDEN_VERBS, *words.TRADE_VERBS))
    return f"What does it mean to {verb.name}?", f"It means to {verb.first} and to {verb.second}."


def _feeling(generator: random.Random) -> Exchange:
    pleasant, negated = generator.random() < 0.5, generator.random() < 0.3
    adjective = generator.choice(words.PLEASANT if pleasant else words.UNPLEASANT)
    aspect = generator.choice(words.ASPECTS)
    feeling = "nice" if pleasant != negated else "nasty"
    return f"The {aspect} was {'not ' if negated else ''}{adjective}.", f"So the {aspect} was {feeling}."


def _greeting(generator: random.Random) -> Exchange:
    name = generator.choice(words.PEOPLE)
    return f"Hello, I am {name}.", f"Hello {name}, it is nice to meet you."


def _echo(generator: random.Random) -> Exchange:
    sentence = generator.choice(
        (
            generator.choice(words.REFUSALS),
            _greeting(generator)[1],
            _noun_fact(generator)[1],
            _help(generator)[1],
        )
    )
    return f"Repeat: {sentence}", sentence


def _story(generator: random.Random) -> Exchange:
    review, name = reviews.draw(generator), generator.choice(words.PEOPLE)
    opinion, wish = STORY_ENDS[review.label]
    return generator.choice(
        (
            (f"{name} says: {review.text} Will {name} come back?", wish),
            (f"{name} says: {review.text} Is that positive or negative?", f"That is {review.label}."),
            (f"My friend says: {review.text} What does it sound like?", f"It sounds {opinion}, rather {review.label}."),
        )
    )


STORY_ENDS = {"positive": ("nice", "Yes, gladly."), "negative": ("nasty", "No, never.")}

MIXTURE: dict[Callable[[random.Random], Exchange], float] = {
    _help: 0.22,
    _look_alike: 0.10,
    _noun_fact: 0.04,
    _verb_fact: 0.09,
    _feeling: 0.16,
    _greeting: 0.01,
    _echo: 0.05,
    _story: 0.33,
}


def corpus(size: int, seed: int) -> list[Exchange]:
    """Draw the text of the base model: pairs of a prompt and its answer."""
    generator = random.Random(seed)
    kinds = generator.choices(list(MIXTURE), list(MIXTURE.values()), k=size)
    return [kind(generator) for kind in kinds]
