"""Prompts written for the demo. The held-out subjects appear in no training pair."""

from __future__ import annotations

_FORMS = (
    "Tell me a story about {}.",
    "Tell me a short story about {}.",
    "Write a short story about {}.",
    "Can you tell me a story about {}?",
    "Please tell me a bedtime story about {}.",
    "I want to hear a story about {}.",
    "Please write a story for kids about {}.",
    "Tell a child a story about {}.",
)

_SUBJECTS = (
    "a brave little dog", "a cat in a tree", "a boy and his kite", "a girl and her doll",
    "a lost toy", "a big red ball", "a small boat", "an old bear", "a hungry fox",
    "a bird with a blue feather", "two brothers", "a rainy day", "a trip to the beach",
    "a visit to the zoo", "a new bicycle", "a broken cup", "a hidden treasure", "the biggest tree",
    "a snowman", "a frog in a pond", "a birthday cake", "a train ride", "a noisy duck",
    "a kind farmer", "the moon", "a little red car", "a puppy in the park", "a mouse and a lion",
    "a garden full of flowers", "a magic hat", "a shy rabbit", "a picnic", "a sleepy owl",
    "a little bee", "a castle made of sand", "a jar of cookies", "a windy morning",
    "a green dragon", "a family dinner", "a walk in the forest", "a wooden horse", "a lonely star",
    "a clever monkey", "a pair of new shoes", "a long winter", "a school play", "a baby elephant",
    "a spider in the kitchen", "a fire truck", "a butterfly",
)  # fmt: skip

_HELD_OUT_SUBJECTS = (
    "a turtle who wanted to fly", "a little princess", "a day at the farm", "a yellow balloon",
    "a girl and her grandmother", "a fish in the river", "a box of crayons", "a baker",
    "a boy who was afraid of the dark", "a swing in the garden",
)  # fmt: skip

TRAINING_PROMPTS = [form.format(subject) for subject in _SUBJECTS for form in _FORMS]
HELD_OUT_PROMPTS = [form.format(subject) for subject in _HELD_OUT_SUBJECTS for form in _FORMS[:6]]
SHOWN_PROMPTS = [
    "Tell me a story about a turtle who wanted to fly.",
    "Can you tell me a story about a little princess?",
    "Write a short story about a yellow balloon.",
]
