"""Tasks in two more languages: say a fact in French, or in Chinese, in one sentence.

The notes are those of `instructions`, with keys whose values need no translation. An answer
must name the key in the language that is asked for, and hold the value. The keys of the test
were never trained on, so their French and Chinese names must be known from pretraining.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sftkit.corpora import instructions
from sftkit.corpora.checked_tasks import (
    Task,
    distinct,
    drawn,
    few_shot,
    in_order,
    listed,
    located,
)
from sftkit.corpora.instructions import VALUES

__all__ = ["KINDS", "NAMES", "REQUESTS", "few_shot", "right_answer", "tasks", "wrong"]

KINDS = ("french", "chinese")
# Key to its French names with article, and its Chinese ones; the first is what is trained.
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "name": (("le nom", "le prénom"), ("名字", "姓名", "名称")),
    "city": (("la ville",), ("城市",)),
    "team": (("l'équipe",), ("球队", "团队", "队伍")),
    "brand": (("la marque",), ("品牌",)),
    "street": (("la rue",), ("街道", "街")),
    "planet": (("la planète",), ("行星", "星球")),
    "age": (("l'âge",), ("年龄",)),
    "price": (("le prix",), ("价格", "价钱")),
    "year": (("l'année", "l'an"), ("年份", "年")),
    "floor": (("l'étage",), ("楼层", "层")),
    "speed": (("la vitesse",), ("速度",)),
    "seat": (("le siège", "la place"), ("座位",)),
    "hotel": (("l'hôtel",), ("酒店", "旅馆", "宾馆")),
    "ship": (("le navire", "le bateau"), ("船",)),
    "island": (("l'île",), ("岛", "岛屿")),
    "company": (("l'entreprise", "la société"), ("公司",)),
    "station": (("la gare", "la station"), ("车站", "站")),
    "mountain": (("la montagne",), ("山", "山脉")),
    "singer": (("le chanteur", "la chanteuse"), ("歌手",)),
    "coach": (("l'entraîneur", "l'entraîneuse"), ("教练",)),
    "guest": (("l'invité", "l'invitée"), ("客人", "嘉宾")),
    "film": (("le film",), ("电影",)),
    "book": (("le livre",), ("书", "书籍")),
    "height": (("la hauteur", "la taille"), ("高度", "身高")),
    "depth": (("la profondeur",), ("深度",)),
    "page": (("la page",), ("页", "页码")),
    "level": (("le niveau",), ("级别", "水平")),
    "row": (("la rangée", "la ligne"), ("排", "行")),
    "gate": (("la porte",), ("登机口", "门")),
    "rank": (("le rang", "le classement"), ("排名", "等级")),
    "temperature": (("la température",), ("温度",)),
    "owner": (("le propriétaire", "la propriétaire"), ("主人", "业主", "所有者")),
    "village": (("le village",), ("村庄", "村子", "村")),
    "distance": (("la distance",), ("距离",)),
    "score": (("le score", "la note"), ("分数", "得分", "比分")),
    "author": (("l'auteur", "l'autrice", "l'auteure"), ("作者",)),
    "river": (("la rivière", "le fleuve"), ("河流", "河", "江")),
    "weight": (("le poids",), ("重量", "体重")),
    "room": (("la chambre", "la pièce", "la salle"), ("房间", "室")),
    "customer": (("le client", "la cliente"), ("顾客", "客户", "客人")),
    "bridge": (("le pont",), ("桥", "大桥")),
    "width": (("la largeur",), ("宽度", "宽")),
    "shelf": (("l'étagère", "le rayon"), ("架子", "书架", "货架")),
}
REQUESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "french": (
            "Say {keys} in one French sentence.",
            "Answer in French: {keys}?",
            "Write {keys} as a sentence in French.",
        ),
        "chinese": (
            "Say {keys} in one Chinese sentence.",
            "Answer in Chinese: {keys}?",
            "Write {keys} as a sentence in Chinese.",
        ),
    },
    "validation": {
        "french": ("In French, please: {keys}.",),
        "chinese": ("In Chinese, please: {keys}.",),
    },
    "test": {
        "french": ("Tell a French friend {keys}.", "{keys}: a single sentence, French."),
        "chinese": ("Tell a Chinese friend {keys}.", "{keys}: a single sentence, Chinese."),
    },
}
_HAN = re.compile(r"[\u4e00-\u9fff]")


def tasks(part: str, n: int, seed: int = 0) -> list[Task]:
    """``n`` different tasks of a split, the languages in turn.

    Raises:
        CorpusError: An unknown split, or more tasks than there are.
    """

    def make(number: int, generator: Any) -> Task:
        kind = KINDS[number % len(KINDS)]
        known = [key for key in VALUES[part] if key in NAMES]
        notes, expected, others = instructions.facts(part, known, generator)
        request = drawn(REQUESTS[part][kind], generator)
        request = request.format(keys=listed([f"the {key}" for key in expected]))
        request = request[0].upper() + request[1:]
        return Task(kind, f"{notes}\n{request}", right_answer(kind, expected), expected, others)

    return distinct(make, VALUES, part, n, seed)


def right_answer(kind: str, expected: dict[str, str | int]) -> str:
    """The answer in the form that is trained."""
    if kind == "chinese":
        said = "，".join(f"{NAMES[key][1][0]}是{value}" for key, value in expected.items())
        return f"{said}。"
    parts = [f"{NAMES[key][0][0]} est {value}" for key, value in expected.items()]
    said = listed(parts, "et")
    return f"{said[0].upper()}{said[1:]}."


def wrong(task: Task, answer: str) -> str:
    """What is wrong with an answer, in a few words; "" when it does what was asked."""
    answer = answer.strip().replace("’", "'")
    if not answer:
        return "empty"
    chinese = task.kind == "chinese"
    if chinese != bool(_HAN.search(answer)):
        return "another language"
    ends = ("。", "！", ".", "!") if chinese else (".", "!")
    if "\n" in answer or not answer.endswith(ends):
        return "not one sentence"
    if re.search(r"[。！].|[.!?]\s", answer):
        return "more than one sentence"
    values = [str(value) for value in task.expected.values()]
    letters = "A-Za-z0-9" if chinese else r"\w"  # in Chinese no space parts words from values
    said, rest = located(values, answer, letters=letters)
    keys = [_first(key, rest, chinese) for key in task.expected]
    if min(keys) < 0:
        return "a name is missing"
    places = [said[value] for value in values]
    if not all(places) or not in_order(keys, places, values):
        return "wrong values"
    others = [str(value) for value in task.others if str(value) not in values]
    return "says more" if any(located(others, rest, letters=letters)[0].values()) else ""


def _first(key: str, answer: str, chinese: bool) -> int:
    """Where the first of a key's names is; -1 where none is. In French whatever its article."""
    names = NAMES[key][chinese]
    if chinese:
        for longer in _longer(key):
            answer = answer.replace(longer, "\0" * len(longer))
        found = [answer.find(name) for name in names]
    else:
        words = [re.findall(r"\w+", name)[-1] for name in names]
        matches = (re.search(rf"(?<!\w){re.escape(w)}(?!\w)", answer.lower()) for w in words)
        found = [match.start() if match else -1 for match in matches]
    return min((at for at in found if at >= 0), default=-1)


@cache
def _longer(key: str) -> tuple[str, ...]:
    """Chinese names of other keys that hold one of this key (年龄 holds 年), longest first."""
    own = NAMES[key][1]
    others = {name for _, chinese in NAMES.values() for name in chinese} - set(own)
    return tuple(
        sorted((o for o in others if any(n in o for n in own)), key=lambda o: (-len(o), o))
    )
