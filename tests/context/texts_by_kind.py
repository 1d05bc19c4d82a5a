"""Texts of many kinds, and how many tokens three tokenizers make of them.

Not here: the tokenizers, those of GPT-4o, of Qwen 3 and of Claude, in this order.
"""

# ruff: noqa: RUF001 other scripts have letters that look alike

import base64
import hashlib
import json
import random

_CHANCE = random.Random(3)
_BYTES = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(48))
_ROWS = [{"id": n * 7919, "ok": n % 3 == 0, "name": f"row {n}", "at": None} for n in range(40)]

TEXTS = {
    "English": "The train to Lyon leaves at nine, so we should be at the station by half past "
    "eight. Ann has the tickets, and I will bring something to read. " * 8,
    "German": "Der Zug nach Lyon fährt um neun ab, wir sollten also um halb neun am Bahnhof sein. "
    "Anna hat die Fahrkarten, und ich bringe etwas zum Lesen mit. " * 8,
    "French": "Le train pour Lyon part à neuf heures, il faudrait donc être à la gare à huit "
    "heures et demie. Anne a les billets, et j'apporterai de quoi lire. " * 8,
    "Finnish": "Juna Lyoniin lähtee yhdeksältä, joten meidän pitäisi olla asemalla puoli "
    "yhdeksältä. Annalla on liput, ja minä tuon jotain luettavaa. " * 8,
    "Russian": "Поезд в Лион отходит в девять, поэтому нам надо быть на вокзале в половине "
    "девятого. Билеты у Анны, а я возьму что-нибудь почитать. " * 8,
    "Chinese": "去里昂的火车九点出发，所以我们应该八点半到车站。票在安娜那里，我会带点东西来看。"
    * 8,
    "Japanese": "リヨン行きの電車は九時に出るので、八時半には駅に着いていたいです。" * 8,
    "Korean": "리옹행 기차는 아홉 시에 출발하니까 여덟 시 반까지는 역에 가야 해요. " * 8,
    "Hindi": "ल्योन की ट्रेन नौ बजे जाती है, इसलिए हमें साढ़े आठ बजे स्टेशन पर होना चाहिए। " * 8,
    "Thai": "รถไฟไปลียงออกเก้าโมง เราจึงควรถึงสถานีแปดโมงครึ่ง " * 8,
    "Arabic": "يغادر القطار إلى ليون في التاسعة، لذلك علينا أن نكون في المحطة في الثامنة والنصف. "
    * 8,
    "Amharic": "ወደ ሊዮን የሚሄደው ባቡር በዘጠኝ ሰዓት ይነሳል። " * 8,
    "emoji": "👍🎉🚀😀🔥✨🙏💡📦🧪" * 20,
    "Python": "def total(values: list[int]) -> int:\n    result = 0\n    for value in values:\n"
    "        if value > 0:\n            result += value\n    return result\n\n\n" * 8,
    "JSON": json.dumps(_ROWS, indent=2),
    "minified JSON": json.dumps(_ROWS, separators=(",", ":")),
    "log": "\n".join(
        f"2031-05-17 10:{n % 60:02}:07,{n * 37 % 1000:03} INFO worker-{n % 4}: job {n * 7919} done"
        for n in range(60)
    ),
    "base64": base64.b64encode(_BYTES).decode(),
    "hex": _BYTES.hex(),
    "digits": "".join(_CHANCE.choices("0123456789", k=1200)),
    "random letters": "".join(_CHANCE.choices("abcdefghijklmnopqrstuvwxyz", k=1200)),
    "marks": "".join(_CHANCE.choices("!#$%&()*+,-./:;<=>?@[]^_{|}~", k=1200)),
    "rules": "\n".join(mark * 72 for mark in "-=*#~" * 8),
    "indents": "\n".join(" " * (n * 7 % 61) + "end" for n in range(80)),
    "blank": " " * 1500 + "\n" * 300,
    "table": "\n".join(f"| {'name':<14} | {n:>8} | {'open':<10} |" for n in range(40)),
}

COUNTS = {
    "English": (265, 265, 265),
    "German": (273, 345, 369),
    "French": (297, 353, 401),
    "Finnish": (337, 441, 457),
    "Russian": (345, 369, 585),
    "Chinese": (256, 216, 344),
    "Japanese": (224, 208, 296),
    "Korean": (241, 225, 297),
    "Hindi": (169, 576, 664),
    "Thai": (185, 208, 713),
    "Arabic": (209, 225, 608),
    "Amharic": (456, 336, 656),
    "emoji": (320, 200, 480),
    "Python": (304, 304, 295),
    "JSON": (1321, 1494, 1215),
    "minified JSON": (761, 934, 736),
    "log": (1498, 2261, 1407),
    "base64": (1403, 1520, 1464),
    "hex": (1748, 2684, 1793),
    "digits": (400, 1200, 497),
    "random letters": (625, 646, 636),
    "marks": (808, 799, 790),
    "rules": (95, 95, 119),
    "indents": (236, 236, 159),
    "blank": (33, 23, 16),
    "table": (440, 470, 439),
}
"""By tokenizers."""
