"""Whether an answer says yes or no."""

from __future__ import annotations

import re

from vlaudit.answers.text import conclusions

UNSURE = re.compile(
    r"\b(?:(?:do not|don't|dont) (?:know|have (?:enough|sufficient|specific))|(?:cannot|can't|can not|couldn't) (?:really |quite |definitively )*(?:tell|say|"
    r"determine|confirm|answer|be (?:sure|determined))|(?:not|un)[ -]?(?:sure|certain|clear|confident)|not (?:able|possible) to (?:tell|say|determine)|"
    r"impossible to|(?:hard|difficult) to (?:say|tell|determine)|no (?:idea|way to (?:tell|know|say))|could (?:be|go)|might (?:be|go)|may be|maybe|"
    r"perhaps|possibly|either|depends?\b|ambiguous|torn between|not enough|no (?:lo )?sé\b|non (?:lo )?so\b|não sei\b|ne sais pas|no se puede (?:saber|decir|determinar)|não dá para (?:saber|dizer)|non si può (?:dire|sapere)|nicht zu (?:erkennen|sagen)|weiß (?:es )?nicht|"
    r"schwer zu sagen|не знаю|(?:很|比较)?难(?:以|说|判断))\b|不(?:太|是很)?(?:确定|確定|清楚|知道|一定|好说)|(?:无法|無法|不能|难以)(?:确定|確定|判断|判斷|确认|回答)|看不(?:清|出)|说不准|没有?(?:足够|办法|法)"
)
"""What is said where nothing is affirmed."""
_FILLER = re.compile(
    r"(?:(?:well|oh|so|thus|therefore|hence|actually|hm+|ok|okay|why|now|honestly|overall|in (?:short|fact|conclusion)|good question|let me (?:look|see|check)|"
    r"looking (?:closely|carefully|again)|(?:looking at|based on|judging by|judging from|from|in|according to) (?:the|this|that) (?:image|picture|photo|scene|"
    r"visual evidence)|from what i can (?:see|tell)|as far as i can (?:see|tell)|i'd (?:have to )?say|i would (?:have to )?say|(?:it|that) (?:would|will) be a|"
    r"it's a|i'd (?:answer|lean towards?)|i think|i believe|most likely|very likely|likely|probably|clearly|obviously|surely|certainly|definitely|"
    r"undoubtedly|without a doubt|no doubt about it|answer|a)(?:[,:.!;]|\s+[:;])?\s+){1,8}(?=(?:yes|no)\b(?=\s*(?:[^\w\s]|$)))"
)
_MARK = re.compile(r"(?:<\w+>|\(?[a-h1-9][).:]\s*(?=\w)|[\W_])*")
_HE = r"(?:it|they|there|he|she|that|this|those|these|we|you|the (?:image|picture|photo|answer|person|man|woman))"
_IS = r"(?:is|are|was|were|does|do|did|has|have|will|would|can|could)"
_NT = rf"(?:(?:{_IS}|'s|'re) ?(?:not|n't)|isn't|aren't|wasn't|weren't|doesn't|don't|didn't|hasn't|haven't|won't|can't|cannot)"
_SURELY = r"(?:absolutely|certainly|definitely|clearly|obviously|surely|of course|undoubtedly|indeed|sure|naturally|by all means|without (?:a |any )?doubt)"
_END = r"(?=\W*$|\s*[.,;:!)\"'*—–-])"
_NO = re.compile(
    rf"(?:no+|nope|nah|nay|n|negative|untrue|false|incorrect|zero){_END}"
    r"|no\b(?! (?:idea|comment|answer|image|picture|photo|information|way to|doubt|problem|question|data|clue|opinion|one knows|longer|matter))"
    r"|(?:nope|nah|negative|incorrect|false|untrue)\b|wrong\b(?! (?:picture|image|photo|question|file))|never\b(?! mind)|hardly\b|far from it"
    r"|not\b(?! (?:sure|certain|clear|enough|applicable|visible|known|available|possible|legible|shown|specified|stated|given|readable|able|provided|mentioned))"
    r"|nothing of the sort|none(?: that| of (?:them|these))|by no means|in no way"
    rf"|(?:{_SURELY}|probably|(?:most |very )?likely|really|quite)(?:,? (?:not|no)\b(?! (?:idea|sure|certain|clear))|,? {_HE}(?: really)? ?{_NT})|(?:very |highly )?unlikely"
    rf"|{_HE} ?{_NT}(?: (?:so|the case|true|correct|right|there|one|really))?\W*$|i (?:(?:don't|do not) (?:think|believe)|wouldn't say) so|i doubt it"
    rf"|(?:that|this|it|the|your|you)(?: (?:statement|claim|answer|assumption))? ?(?:(?:is|'s|are|'re) )?(?:not (?:true|correct|right|accurate|so|the case)|incorrect|false|wrong|untrue)\b"
    rf"|{_HE} ?{_NT} (?:appear|seem|look|show|depict|contain|match|include|feature|a|an|wearing|holding)\b(?! (?:enough|clearly|well|(?:his|her|their|the) (?:face|eyes|details?))\b)|there (?:(?:is|are|was|were) no|(?:isn't|aren't|wasn't|weren't) an?y?)\b"
    r"(?! (?:way|clear|indication|information|doubt|telling|reason|need|problem))"
    r"|(?:non|nein|não|nao|нет)\b|不(?!错|錯)|没(?!错|有?问题)|沒(?!錯)|否|(?:图|照片|画面)(?:片)?(?:中|里)没有|并不|并非|並不|いいえ|違います|아니"
    r"|(?:natürlich|selbstverständlich|sicher(?:lich)?|bestimmt) nicht|(?:claro|por supuesto|com certeza) que n[oã]|bien sûr que non|cert(?:o che|amente) no|конечно,? нет"
    r"|auf keinen fall|keineswegs|keinesfalls|überhaupt nicht|(?:pas du tout|pas vraiment|absolument pas|certainement pas)\b|para nada|en absoluto|de ning[úu]n modo"
    r"|assolutamente no|per niente|affatto|de (?:modo nenhum|jeito nenhum)|ни в коем случае|вовсе нет|もちろん違"
)
_YES = re.compile(
    rf"(?:yes+|yea|yeah|yep|yup|aye)\b|(?:y|ja|oui|sim|sí|si|да|да|affirmative|confirmed|agreed|positive|exactly|precisely|correct|right|true|affirmative){_END}"
    rf"|(?:{_SURELY}|correct|true|right)(?:{_END}|,? (?:it|there|they|he|she|that|this|the|an?|is|one)\b(?! (?:difficult|hard|tough|good|great|interesting|question|beautiful|word|hand|answer|lovely)))"
    rf"|no doubt{_END}|{_HE} (?:(?:certainly|sure|indeed|really|clearly|definitely|surely|absolutely) )*{_IS}(?: (?:indeed|so))?[.!]\W*$"
    rf"|{_HE} {_IS} indeed\b|{_HE} (?:does|do) (?:indeed )?(?:show|appear|look|seem|contain|depict|have)\b|i (?:think|believe) so\b"
    r"|i can confirm\b|looks (?:that way|like it)"
    rf"|(?:that|this|it|the|your|you)(?: (?:statement|claim|answer|assumption))? ?(?:(?:is|'s|are|'re) )(?:true|correct|right|so)\b"
    r"|(?:genau|natürlich|selbstverständlich|jawohl|claro(?: que s[ií])?|por supuesto|desde luego|bien sûr|tout à fait|exactement|certo|certamente|sì|"
    rf"com certeza|конечно|верно){_END}|it (?:appears|seems|looks) so\b|当然|是|对|對|没错|沒錯|有的|はい|もちろん|네\b|예\b|물론"
)
_EMBEDDED = re.compile(
    r"(?:[.,;:!—–]\s*|\b(?:so|thus|hence|therefore|but|say|answer|is|is:|be|be a|is a|toward|towards|likely|probably|obviously|clearly|actually)[,:]?\s+)"
    r"\W{0,3}(yes|no)(?=\W*$|\s*[.,;:!—–)\"'*])(?!\s*[,.]?\s*(?:or|and)\b)"
)
_CONTRARY = re.compile(r"\W*(?:and|or|but|/|,)?\W*(?:yes|no)\b")


def yes_no(answer: str) -> bool | None:
    """True for yes, False for no, None where the answer says neither or both."""
    for part in conclusions(answer):
        text = part[_end(_MARK.match(part)) :]
        text = text[_end(_FILLER.match(text)) :]
        first = re.match(r"(?:yes|no)\b", text)
        if first and _CONTRARY.match(text, first.end()) and not re.match(rf"\W*{first.group()}\b", text[first.end() :]):
            return None
        plain = first and re.match(r"\s*(?:[^\w\s]|$)", text[first.end() :])
        if UNSURE.search(re.split(r"(?<=\w)[,.;:]", text)[0] if plain else text):
            return None
        no, yes = _NO.match(text), _YES.match(text)
        if no or yes:
            return no is None
        found = {match.group(1) for match in _EMBEDDED.finditer(part)}
        if found:
            return found == {"yes"} if len(found) == 1 else None
    return None


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
