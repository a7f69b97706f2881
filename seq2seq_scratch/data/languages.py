"""Language codes as users write them (zho_Hans, zh-CN, jpn, pt_BR, de_DE.UTF-8), resolved to one language."""

import re
from functools import lru_cache

import langcodes

# Codes of countries in place of their languages' codes. None of these is a language's code.
LANGUAGES_OF_COUNTRIES = {"cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "jp": "ja", "kh": "km", "ua": "uk"}


@lru_cache
def resolve_language(code: str) -> langcodes.Language:
    """The language that a code names, with its script if the code names one.

    Codes of three letters become those of two where there are any (deu: de), a language within a macrolanguage becomes
    that one where CLDR says so (cmn: zh), and a few codes of countries become the language's (jp: ja). Regions and
    encodings stay out.

    Args:
        code: BCP 47, ISO 639, FLORES-200 or a locale; `-` and `_` are the same.

    Returns:
        A language of `langcodes`. An unknown code is its own language, and what cannot be a code is `und`, which
        has None as its `language`.
    """
    code = re.split("[.@]", code.strip())[0]
    for candidate in (code, re.split("[-_]", code)[0]):
        try:
            language = langcodes.Language.get(langcodes.standardize_tag(candidate, macro=True))
        except ValueError:  # not a code as a whole, but perhaps its first part is
            continue
        name = LANGUAGES_OF_COUNTRIES.get(language.language, language.language)
        return langcodes.Language.make(language=name, script=language.script)
    return langcodes.Language.make()


def language_of_script(code: str) -> str | None:
    """The language for which the script of the text is best known: zh for yue and zh_TW, my for shn, th for kxm_Thai.

    The script is what the code names, or the one in which the language is usually written.
    """
    script = resolve_language(code).maximize().script
    return langcodes.Language.make(script=script).maximize().language
