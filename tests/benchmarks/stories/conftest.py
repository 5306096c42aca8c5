"""Fifty made-up stories, and a story model of random weights."""

import gzip
import json
import random
from itertools import product

import pytest
import torch
from benchmarks.stories.topics import KINDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PEOPLE = ("Pim", "Oda", "Rolf", "Nele", "Jost")
THINGS = ("kite", "drum", "cake", "boat", "lamp", "tent", "sock", "hill", "pond", "coat")


def told(person, thing, topic):
    """One story: an opening with a name, an animal, a forbidden noun, a happy or a sad turn, an end."""
    happy = len(topic) % 2
    turn = "They smiled and clapped by the pond." if happy else "They cried because it broke on the hill."
    animal = ("bird", "cat", "dog", "fish")[(len(person) + len(thing) + ord(thing[1])) % 4]
    return (
        f"There was a child named {person} who had a {thing} and {'loved' if happy else 'lost'} it. "
        f"{person} took the {thing} to the river every morning. "
        f"Near the river sat a {animal} in a tree. Suddenly the {topic} came close to the {thing} in the garden. "
        f"Everybody looked at the {topic} and at the old house. {turn} "
        f"The friends put the {thing} in the box by the door. At night they all went home to the town for supper."
    )


@pytest.fixture(scope="session")
def stories():
    generator = random.Random(3)
    topics = [word for words in KINDS.values() for word in words[:3]]
    pairs = generator.sample(list(product(PEOPLE, THINGS)), 50)
    return [told(person, thing, topics[i % len(topics)]) for i, (person, thing) in enumerate(pairs)]


@pytest.fixture(scope="session")
def data(tmp_path_factory, stories):
    """A folder like that of the third-party data: stories and a story model."""
    root = tmp_path_factory.mktemp("data")
    (root / "data/tinystories").mkdir(parents=True)
    for name in ("train", "validation"):
        with gzip.open(root / f"data/tinystories/{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": story}) + "\n" for story in stories)
    save_story_model(root / "models/tiny")
    return root


def save_story_model(folder):
    """A Llama over bytes, with the special tokens that a story model has and those of a chat missing."""
    letters = {
        piece: number
        for number, piece in enumerate(["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    core = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
