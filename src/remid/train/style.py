"""How a text sounds, as far as it can be measured without a model: coarse words, in any language.

Each trait is a slot with one of a few fixed phrases, so that a model can learn to predict it and none of the text's own
words is given away. A trait that cannot be measured in a language has no slot.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence

from remid.data.text import UNSPACED, word_pattern

_ALONE = re.compile(rf"[{UNSPACED}]")

_NAMES = {
    "en": "English", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "id": "Indonesian", "pl": "Polish", "tr": "Turkish", "sv": "Swedish", "vi": "Vietnamese",
    "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "ru": "Russian", "uk": "Ukrainian", "ar": "Arabic",
    "fa": "Persian", "he": "Hebrew", "el": "Greek", "th": "Thai", "hi": "Hindi",
}  # fmt: skip
_SELF = {
    "en": r"(?i)\b(i|me|my|mine|myself)\b",
    "de": r"(?i)\b(ich|mich|mir|mein\w*)\b",
    "fr": r"(?i)\b(je|j|moi|mon|ma|mes)\b",
    "es": r"(?i)\b(yo|me|mi|mis|mí|mío|mía)\b",
    "it": r"(?i)\b(io|mi|me|mio|mia|miei|mie)\b",
    "pt": r"(?i)\b(eu|me|mim|meu|minha|meus|minhas)\b",
    "nl": r"(?i)\b(ik|mij|me|mijn)\b",
    "id": r"(?i)\b(saya|aku)\b|\wku\b",
    "ru": r"(?i)\b(я|меня|мне|мной|мо[йяеёи]\w*)\b",
    "zh": "我|俺|咱",
    "ja": "私|僕|俺|わたし|ぼく|おれ|あたし|儂|わし",
    "ko": r"(?<!\S)(나|저|내|제)(는|도|가|의|를|에게|한테)?(?!\S)|(?<!\S)(난|전)(?!\S)",
}
_USER = {
    "en": r"(?i)\b(you|your|yours|yourself|thou|thee|thy)\b",
    "de": r"(?i:\b(du|dich|dir|dein\w*|euch|euer)\b)|(?<=[\w,] )(Sie|Ihnen|Ihr\w{0,2})\b",
    "fr": r"(?i)\b(tu|te|t|toi|ton|ta|tes|vous|votre|vos)\b",
    "es": r"(?i)\b(tú|te|ti|tu|tus|usted|ustedes|vos)\b",
    "it": r"(?i)\b(tu|ti|te|tuo|tua|tuoi|tue|voi|vi|vostro|vostra)\b",
    "pt": r"(?i)\b(tu|te|ti|você|vocês|teu|tua|seu|sua)\b",
    "nl": r"(?i)\b(je|jij|jou|jouw|u|uw)\b",
    "id": r"(?i)\b(kamu|anda|kau)\b|\wmu\b",
    "ru": r"(?i)\b(ты|тебя|тебе|тво[йяеёи]\w*|вы|вас|вам|ваш\w*)\b",
    "zh": "你|您",
    "ja": "あなた|君|お前|貴方|きみ",
    "ko": r"(?<!\S)(너|당신|네|니)(는|도|가|의|를|에게|한테)?(?!\S)|(?<!\S)넌(?!\S)",
}
#: (formal, familiar) marks.
_REGISTER = {
    "en": (r"(?i)\b(sir|madam|ma'am|shall|pray|thou|thee)\b", r"(?i)\w['’](m|re|ve|ll|d|t)\b|\b(gonna|yeah|hey|lol)\b"),
    "de": (r"(?<=[\w,] )(Sie|Ihnen|Ihr\w{0,2})\b", r"(?i)\b(du|dich|dir|dein\w*)\b"),
    "fr": (r"(?i)\b(vous|votre|vos)\b", r"(?i)\b(tu|te|toi|ton|ta|tes)\b"),
    "es": (r"(?i)\b(usted|ustedes)\b", r"(?i)\b(tú|te|ti|tu|tus)\b"),
    "it": (r"(?<=[\w,] )(Lei|Le|Suo|Sua)\b", r"(?i)\b(tu|ti|te|tuo|tua)\b"),
    "nl": (r"(?i)\b(u|uw)\b", r"(?i)\b(je|jij|jou|jouw)\b"),
    "id": (r"(?i)\b(anda|saya)\b", r"(?i)\b(kamu|aku|kau)\b|\w(ku|mu)\b"),
    "ru": (r"(?i)\b(вы|вас|вам|ваш\w*)\b", r"(?i)\b(ты|тебя|тебе|тво[йяеёи]\w*)\b"),
    "zh": ("您", "你"),
    "ja": ("です|ます|ました|ません|でしょう|ください", "だよ|だね|だぜ|だろう|じゃん|お前"),
    "ko": (r"(요|니다|니까|세요)(?![\w])", r"(어|아|야|지|네|다|냐)(?=[.!?~]|$)"),
}
_MARKS = (
    (r"\*[^*\n]+\*|^\s*[(（\[][^)）\]\n]+[)）\]]", "shows actions"),
    (r"[“「『«][^”」』»\n]+[”」』»]|(?<!\S)\"[^\"\n]+\"", "has quotation marks"),
    ("…|\\.\\.\\.|——", "trails off or breaks off"),
    ("[\U0001f300-\U0001faff\u2600-\u27bf]", "has emoji"),
)
_QUESTION = "?？؟"
_EXCLAMATION = "!！"
_SENTENCE_ENDS = re.compile(r"[.!?。！？؟…।]+")
#: Words of a text are told as the nearest of these.
_SIZES = (3, 6, 12, 20, 35, 60, 100, 160)


def size_of(text: str) -> float:
    """Length in words; a character of a script without spaces counts half a word."""
    tokens = word_pattern().findall(text)
    return len(tokens) - 0.5 * sum(bool(_ALONE.match(token)) for token in tokens)


def traits(text: str, language: str) -> dict[str, str]:
    """Slots and phrases of one text, in a fixed order. language: as in data/language.py."""
    found = {"language": _NAMES[language]} if language in _NAMES else {}
    found["length"] = _length(text, size_of(text), _sentences(text))
    ending = text.rstrip(" \n\t\"'”」』»*)）")[-1:]
    asks = any(mark in text for mark in _QUESTION)
    found["question"] = "no question" if not asks else f"{'ends with' if ending in _QUESTION else 'asks'} a question"
    if any(mark in text for mark in _EXCLAMATION):
        found["exclamation"] = "exclaims"
    if language in _SELF and re.search(_SELF[language], text):
        found["self"] = "speaks of itself"
    if language in _USER and re.search(_USER[language], text):
        found["user"] = "addresses the user"
    if language in _REGISTER:
        formal, familiar = (bool(re.search(pattern, text)) for pattern in _REGISTER[language])
        if formal != familiar:
            found["register"] = "formal" if formal else "familiar"
    for number, (pattern, phrase) in enumerate(_MARKS):
        if re.search(pattern, text):
            found[f"mark {number}"] = phrase
    if re.search("[a-z]", text) and not re.search("[A-Z]", text):
        found["case"] = "lower case throughout"
    return found


def typical(texts: Sequence[str], language: str) -> dict[str, str]:
    """What is to be expected of a speaker who spoke so before: traits of most of the texts, their median length.

    Without texts the language alone is known.
    """
    if not texts:
        known = {"language": _NAMES[language]} if language in _NAMES else {}
        return {**known, "length": "unknown length"}
    each = [traits(text, language) for text in texts]
    counts = Counter((slot, phrase) for row in each for slot, phrase in row.items())
    found = {slot: phrase for (slot, phrase), n in counts.items() if 2 * n > len(texts)}
    sizes, sentences = [size_of(text) for text in texts], [_sentences(text) for text in texts]
    found["length"] = _length(" ".join(texts), statistics.median(sizes), round(statistics.median(sentences)))
    order = list(dict.fromkeys(slot for row in each for slot in row))
    return {slot: found[slot] for slot in order if slot in found}


def say(found: dict[str, str], slots: Sequence[str] | None = None) -> str:
    """The phrases of these slots (None: of all) in one line."""
    return "; ".join(phrase for slot, phrase in found.items() if slots is None or slot.split()[0] in slots)


def _length(text: str, size: float, sentences: int) -> str:
    nearest = min(_SIZES, key=lambda known: abs(known - size) / (known + size))
    tokens = word_pattern().findall(text)
    unspaced = 2 * sum(bool(_ALONE.match(token)) for token in tokens) > len(tokens)
    counted = "1 sentence" if sentences == 1 else f"{sentences} sentences" if sentences < 5 else "5 or more sentences"
    return f"{counted}, about {2 * nearest if unspaced else nearest} {'characters' if unspaced else 'words'}"


def _sentences(text: str) -> int:
    return max(1, sum(bool(word_pattern().search(part)) for part in _SENTENCE_ENDS.split(text)))
