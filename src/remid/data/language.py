"""Which language a text is probably in, by its script and, for Latin script, by its most common words.

This is a census taker's glance, not a language identifier. Its limits: it knows the languages below and no others, and
gives a Latin-script text in another language "unknown" or a neighbour's name (Malay passes for id, Catalan at times for
es); short texts without a common word are "unknown"; Han characters without kana are zh, which a Japanese text in
kanji alone would be too; all Cyrillic without Ukrainian letters is ru; a text in two languages gets the larger one's
name. Nothing in remid is computed from it: it only tells a reader of `remid data check` what the data looks like.
"""

from __future__ import annotations

import re
from collections import Counter

UNKNOWN = "unknown"

#: Enough for a glance, and little enough that long dialogues cost no more than short ones.
MAX_CHARS = 800

_STOPWORDS = {
    "en": "the and is are was you your i'm i it it's to of in that this have has do don't not what my we with for but",
    "de": "der die das und ist sind war nicht ich du sie wir ein eine einen mit zu auf für von habe hat mein dein es",
    "es": "el los las que y es son no yo tú una un con para por mi tu su pero como está muy lo me qué del al más",
    "fr": "le les des et est sont je tu vous nous une un pas que qui avec pour mon ton dans sur c'est j'ai mais très",
    "it": "il gli che e è sono non io tu una un con per mio tuo di del della ma come anche mi ti ho hai molto sei",
    "pt": "os as que e é são não eu você uma um com para por meu seu mas como muito do da em está isso eles",
    "nl": "de het een en is zijn niet ik je jij wij we met voor van dat mijn jouw ook maar heb heeft naar wat er",
    "id": "yang dan di ini itu saya kamu anda tidak dengan untuk apa ada aku dari ke sudah adalah suka bisa juga akan",
    "pl": "i w nie na się że jest to ja ty z do co jak mój twój czy ale tak mam są dla po",
    "tr": "ve bir bu da de ben sen çok ne için ile mi mı değil var evet ama benim senin nasıl daha gibi",
    "sv": "och är att det jag du en ett inte på med för som har vi av den min din vad men till så",
    "vi": "là và của tôi bạn không có một những được cho này với các đã người trong rất gì",
}

#: Word -> the languages in which it is common.
_LANGUAGES = {
    word: tuple(language for language, words in _STOPWORDS.items() if word in words.split())
    for word in " ".join(_STOPWORDS.values()).split()
}

#: (language or script, a character of it). Japanese and Korean use Han too, which _script allows for.
_SCRIPTS = (
    ("kana", re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")),
    ("ko", re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")),
    ("han", re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")),
    ("cyrillic", re.compile(r"[\u0400-\u052f]")),
    ("arabic", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("latin", re.compile(r"[a-zA-Z\u00c0-\u024f\u1e00-\u1eff]")),
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_UKRAINIAN = re.compile(r"[іїєґІЇЄҐ]")
_PERSIAN = re.compile(r"[پچژگیک]")


def language_of(text: str) -> str:
    """A language code of the list above, "zh", "ja", "ko", "ru", "uk", "ar", "fa", "he", "el", "th", "hi" or "unknown".

    Looks at the first MAX_CHARS characters.
    """
    text = text[:MAX_CHARS]
    script = "latin" if text.isascii() else _script(text)
    if script == "latin":
        return _by_words(text)
    if script == "cyrillic":
        return "uk" if _UKRAINIAN.search(text) else "ru"
    if script == "arabic":
        return "fa" if _PERSIAN.search(text) else "ar"
    return script


def _script(text: str) -> str:
    """The script that says most of `text`: a name of _SCRIPTS, with "ja" or "zh" for kana and Han, or "unknown"."""
    counts = Counter({name: len(pattern.findall(text)) for name, pattern in _SCRIPTS})
    kana, han = counts.pop("kana"), counts.pop("han")
    # A syllable or an idea in one character says about as much as two or three letters.
    counts["ko"] *= 2
    counts["ja" if kana > 0.05 * (kana + han) else "zh"] = int(2.5 * (kana + han))
    name, count = counts.most_common(1)[0]
    return name if count else UNKNOWN


def _by_words(text: str) -> str:
    """The language whose common words occur most, if they are common enough and clearly ahead of the next."""
    words = _WORD.findall(text.lower().replace("’", "'"))
    hits = Counter(language for word in words for language in _LANGUAGES.get(word, ()))
    (first, most), (_, second) = (hits.most_common(2) + [(UNKNOWN, 0)] * 2)[:2]
    sure = most >= 2 and most >= 0.12 * len(words) and most >= 1.25 * second
    return first if sure else UNKNOWN
