"""Synthetic English messages with personal data in them, and where it stands.

Real messages of this kind may not be shared, so these are made up: names, addresses and
numbers come from Faker, sentences from templates written by hand. A template is in one split
only, so that a test message has a wording that was never trained on. Most templates also hold
things that look like personal data and are none: order numbers, prices, dates of meetings,
companies, cities. A model that does well here knows the style of these templates; on real mail
expect less.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sftkit.corpora.conll import Sentence, words
from sftkit.corpora.spans import from_spans

LOCALES = ["en_US", "en_GB", "en_AU", "en_IN"]
SIZES = {"train": 3_000, "validation": 500, "test": 1_000}

# Slots in capitals are personal, and are the types; the others are not.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "train": (
        "Hi, this is {NAME}. The {product} I ordered on {day} never arrived, order {order}.",
        "Please send the invoice to {EMAIL}, not to my old address.",
        "My new phone number is {PHONE}. Please update my file.",
        "We moved to {ADDRESS} last month.",
        "Patient {NAME}, born {BIRTHDATE}, was seen on {day} for a follow-up.",
        "Could you call {NAME} back on {PHONE} before {time}?",
        "Transfer {price} to account {ACCOUNT}, reference {order}.",
        "The meeting with {company} is on {day} at {time} in {city}.",
        "{NAME} from {company} asked about the {product}.",
        "Dear {NAME}, thank you for your order {order} of {price}.",
        "I was born on {BIRTHDATE} and live at {ADDRESS}.",
        "For questions write to {EMAIL} or ring {PHONE}.",
        "The delivery for {NAME}, {ADDRESS}, is late again.",
        "Version {number}.{number} of the {product} was released on {day}.",
        "My colleague {NAME} ({EMAIL}) will take over on {day}.",
        "Refund {price} for order {order}; the card belongs to {NAME}.",
        "Account holder: {NAME}. Account number: {ACCOUNT}.",
        "There are {number} open tickets about the {product} this week.",
        "Is {EMAIL} still the right address for {NAME}?",
        "Room {number} is booked for {company} from {time}.",
        "Regards, {NAME}, {PHONE}",
        "Please note that {city} is {number} degrees warmer than expected on {day}.",
        "He gave {ACCOUNT} as his account and {BIRTHDATE} as his date of birth.",
        "According to {company}, sales in {city} rose by {number} percent.",
        "Ship it to {ADDRESS}. If nobody is at home, try {PHONE}.",
        "The user {EMAIL} reports that order {order} was charged twice.",
        "{NAME} and {NAME} will join us from {city}.",
        "Birth date {BIRTHDATE}, name {NAME}, no known allergies.",
        "Can somebody tell {NAME} that the {product} costs {price} now?",
        "Shop {number} in {city} opens at {time} on {day}.",
    ),
    "validation": (
        "Good morning, I am {NAME} and I would like to return a {product}.",
        "Reach me at {EMAIL}; my number {PHONE} no longer works.",
        "The parcel {order} should have gone to {ADDRESS}.",
        "Applicant: {NAME}. Date of birth: {BIRTHDATE}. City: {city}.",
        "{company} paid {price} into {ACCOUNT} on {day}.",
        "The train to {city} leaves at {time}, platform {number}.",
        "I spoke with {NAME} about ticket {order} yesterday.",
        "Bill {company}, not me; write to {EMAIL}.",
    ),
    "test": (
        "Hello, {NAME} here, could you cancel the {product} that I bought for {price}?",
        "If there is a problem with {order}, text {PHONE} or mail {EMAIL}.",
        "She lives at {ADDRESS} and was born on {BIRTHDATE}.",
        "The {product} was reviewed in {city} on {day} by {company}.",
        "Tenant {NAME} has asked for repairs at {ADDRESS} since {day}.",
        "Standing order of {price} from {ACCOUNT}, signed {NAME}.",
        "Only {number} of {number} chairs arrived at {company} by {time}.",
        "Dr. {NAME} will see you on {day} at {time}; bring your papers.",
        "Forward everything for {EMAIL} to {NAME} at {company}.",
        "Emergency contact: {NAME}, {PHONE}. Insurance: {ACCOUNT}.",
        "Ticket {order} was closed at {time}, nothing else to do in {city}.",
        "Who is {NAME}? The form says {BIRTHDATE}, {city}.",
    ),
}
_SLOT = re.compile(r"\{(\w+)\}")
_PRODUCTS = (
    "kettle", "desk lamp", "coffee grinder", "road bike", "headset", "rain jacket", "monitor",
    "garden hose", "travel bag", "printer", "office chair", "alarm clock",
)  # fmt: skip


def types() -> list[str]:
    """The types of personal data, sorted."""
    slots = {slot for parts in TEMPLATES.values() for t in parts for slot in _SLOT.findall(t)}
    return sorted(slot for slot in slots if slot.isupper())


def sentences(split: str, count: int | None = None, seed: int = 0) -> list[Sentence]:
    """Messages of one split; a smaller count gives the beginning of a larger one.

    Args:
        split: ``train``, ``validation`` or ``test``: other templates, other records.
        count: How many; as many as in ``SIZES`` unless given.
        seed: Another seed gives other records and another order of templates.
    """
    return made(TEMPLATES[split], SIZES[split] if count is None else count, split, seed)


def made(templates: tuple[str, ...], count: int, salt: str, seed: int = 0) -> list[Sentence]:
    """Messages from some templates, each as often as the others."""
    import random

    from faker import Faker

    fake = Faker(LOCALES)
    # A text as seed is hashed in the same way on every machine; Faker takes numbers only.
    dice = random.Random(f"{salt} {seed}")
    fake.seed_instance(dice.randrange(2**32))
    values = _values(fake, dice)
    order: list[str] = []
    found = []
    for number in range(count):
        if not order:
            order = list(templates)
            dice.shuffle(order)
        template = order.pop()
        found.append(_filled(template, values, f"template {templates.index(template) + 1}"))
        assert found[-1].tokens, number
    return found


def _filled(template: str, values: dict[str, Callable[[], str]], place: str) -> Sentence:
    tokens: list[str] = []
    chosen = []
    at = 0
    for slot in _SLOT.finditer(template):
        tokens += [token for token, _, _ in words(template[at : slot.start()])]
        start = len(tokens)
        tokens += [token for token, _, _ in words(values[slot[1]]())]
        if slot[1].isupper():
            chosen.append((slot[1], start, len(tokens)))
        at = slot.end()
    tokens += [token for token, _, _ in words(template[at:])]
    return Sentence(tokens, from_spans(chosen, len(tokens)), place)


def _values(fake: Any, dice: Any) -> dict[str, Callable[[], str]]:
    """What fills each slot; the forms of dates, names and numbers vary."""

    def name() -> str:
        form = dice.randrange(6)
        if form == 0:
            return fake.first_name()
        if form == 1:
            return f"{fake.last_name()}, {fake.first_name()}"
        if form == 2:
            return f"{fake.first_name()[0]}. {fake.last_name()}"
        return f"{fake.first_name()} {fake.last_name()}"

    def day() -> str:
        form = dice.choice(("%d %B", "%A", "%B %d", "%d/%m", "%Y-%m-%d"))
        return fake.date_this_decade().strftime(form)

    def birthdate() -> str:
        form = dice.choice(("%d %B %Y", "%Y-%m-%d", "%d/%m/%Y", "%B %d, %Y", "%d.%m.%y"))
        return fake.date_of_birth(minimum_age=18, maximum_age=90).strftime(form)

    def account() -> str:
        if dice.randrange(2):
            return fake.iban()
        return " ".join(f"{dice.randrange(10_000):04d}" for _ in range(dice.choice((2, 3, 4))))

    def order() -> str:
        mark = dice.choice(("#", "A-", "PO ", "no. ", ""))
        return f"{mark}{dice.randrange(10**5, 10**8)}"

    return {
        "NAME": name,
        "EMAIL": lambda: fake.email() if dice.randrange(3) else fake.company_email(),
        "PHONE": fake.phone_number,
        "ADDRESS": lambda: fake.address().replace("\n", ", "),
        "BIRTHDATE": birthdate,
        "ACCOUNT": account,
        "product": lambda: dice.choice(_PRODUCTS),
        "company": fake.company,
        "city": fake.city,
        "day": day,
        "time": lambda: f"{dice.randrange(24)}:{dice.randrange(60):02d}",
        "price": lambda: (
            f"{dice.choice('$£€')}{dice.randrange(2000)}.{dice.randrange(100):02d}"
        ),
        "number": lambda: str(dice.randrange(2, 400)),
        "order": order,
    }
