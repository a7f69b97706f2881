"""Language codes as users write them (zho_Hans, zh-CN, jpn, pt_BR, de_DE.UTF-8), resolved to one language."""

import re
from functools import lru_cache

import langcodes

# Codes of countries that are used for their languages. None of them is the code of a language.
LANGUAGES_OF_COUNTRIES = {"cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "jp": "ja", "kh": "km", "ua": "uk"}


@lru_cache
def resolve_language(code: str) -> langcodes.Language:
    """Returns the language that a code names, with its script if the code names one.

    A code of three letters becomes the code of two letters if there is one (deu: de). A language within a
    macrolanguage becomes the macrolanguage if CLDR says so (cmn: zh), and a few codes of countries become those of
    languages (jp: ja). Regions and encodings are dropped.

    Args:
        code: a BCP 47, ISO 639 or FLORES-200 code or a locale; `-` and `_` are equivalent.

    Returns:
        A language of `langcodes`. An unknown code is returned as a language of its own; a text that cannot be a code
        gives `und`, whose `language` is None.
    """
    code = re.split("[.@]", code.strip())[0]
    for candidate in (code, re.split("[-_]", code)[0]):
        try:
            language = langcodes.Language.get(langcodes.standardize_tag(candidate, macro=True))
        except ValueError:  # the whole is not a code, but its first part may be
            continue
        name = LANGUAGES_OF_COUNTRIES.get(language.language, language.language)
        return langcodes.Language.make(language=name, script=language.script)
    return langcodes.Language.make()


def language_of_script(code: str) -> str | None:
    """Returns the main language of a text's script: zh for yue and zh_TW, my for shn, th for kxm_Thai.

    The script is the one that the code names, or else the one in which the language is usually written.
    """
    script = resolve_language(code).maximize().script
    return langcodes.Language.make(script=script).maximize().language
