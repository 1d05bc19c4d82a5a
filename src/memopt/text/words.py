"""Small words of the languages that texts are analysed in: what says nothing, and what tells.

Owns: the lists. A stop-word is no term; it also tells the language, which is why the lists hold the
commonest words of each and no more. Invariant: every word is folded as `analysis` folds it. Not
here: how a text is taken apart.
"""

from typing import Final


def _lists(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_WORDS: Final = {
    "english": _lists(
        """a about above after again against all also am an and any are aren't as at be because been
        before being below between both but by can can't cannot could couldn't did didn't do does
        doesn't doing don't down during each few for from further had hadn't has hasn't have haven't
        having he he'd he'll he's her here here's hers herself him himself his how how's i i'd i'll
        i'm i've if in into is isn't it it's its itself just let's me more most my myself no nor not
        of off on once only or other ought our ours ourselves out over own same shall she she'd
        she'll she's should shouldn't so some such than that that's the their theirs them themselves
        then there there's these they they'd they'll they're they've this those through to too under
        until up us very was wasn't we we'd we'll we're we've were weren't what what's when when's
        where where's which while who who's whom whose why why's will with won't would wouldn't you
        you'd you'll you're you've your yours yourself yourselves"""
    ),
    "german": _lists(
        """aber alle als am an auch auf aus bei bin bis bist da damit dann das dass dein deine dem
        den denn der des dich die dies diese dieser dir doch du durch ein eine einem einen einer
        eines er es euch euer für gegen hab habe haben hast hat hatte ich ihm ihn ihr ihre im in ist
        ja jetzt kann kein keine können mal man mein meine meinem meinen meiner mich mir mit nach
        nicht noch nur oder schon sehr sein seine sich sie sind so über um und uns unser unsere
        unter vom von vor wann war waren warum was weil welche wenn wer werden wie wieder will wir
        wird wo wurde würde zu zum zur zwischen"""
    ),
    "french": _lists(
        """à ai alors as au aussi avec avez avons avoir c'est ce ces cet cette comme dans de des
        donc du d'un d'une elle elles en est et était été être eu il ils j'ai je l'on la le les leur
        leurs lui ma mais me mes moi mon même n'est ne nos notre nous on ont ou où par pas pour
        pourquoi plus qu'est qu'il qu'elle quand que quel quelle quels qui quoi s'est sa sans se ses
        si son sont sur ta te tes toi ton tout très tu un une vos votre vous y"""
    ),
    "spanish": _lists(
        """a al algo como con cómo cuál cuándo cuando cuánto de del desde donde dónde e el él
        ella ellas ellos en entre era eran es esa ese eso esta está están este esto estoy fue fueron
        ha había han has hasta hay he la las le les lo los más me mi mis muy no nos nosotros nuestra
        nuestro o otra otro para pero por porque qué que quién se ser si sí sin sobre soy su sus
        también te tengo tiene todo tu tus tú un una uno usted y ya yo"""
    ),
    "italian": _lists(
        """a ad al alla alle anche che chi ci come con cosa cui da dal dalla dei del della delle di
        dove e è ed era essere gli ha hai hanno ho i il in io l'ha la le lei li lo loro lui ma mi
        mia mie mio miei molto ne nei nel nella no noi non nostra nostro o per perché più quale
        quali quando quanto quello questa questo qui se sei si sia sono sta stato su sua sue sul
        sulla suo ti tra tu tua tuo un un'altra una uno vi voi"""
    ),
    "portuguese": _lists(
        """a à ao aos as até com como da das de dela dele depois do dos e é ela elas ele eles em
        entre era essa esse esta está estava este estou eu foi foram há isso isto já lhe mais mas me
        meu meus minha minhas muito na não nas nem no nos nós o onde os ou para pela pelo por porque
        quais qual quando que quem são se sem ser seu seus sua suas também te tem tenho ter tinha um
        uma você vocês"""
    ),
    "dutch": _lists(
        """aan al als bij daar dan dat de den der deze die dit doen door dus een en er ge geen had
        heb hebben heeft hem het hier hij hoe hun iemand iets ik in is ja je jij jouw kan kunnen
        maar me meer men met mij mijn moet na naar niet niets nog nu of om omdat onder ons onze ook
        op over te tegen toen tot u uit uw van veel voor waar waarom wanneer want waren was wat we
        wel werd wie wij wil worden wordt zal ze zelf zich zij zijn zo zonder zou"""
    ),
    "swedish": _lists(
        """alla att av blev bli blir de dem den denna det detta dig din ditt där då efter ej eller
        en er ett från för ha hade han hans har henne hon hos hur här i icke inte jag kan man med
        mellan men mig min mina mitt mot mycket ni nu när någon något och om oss på sedan sig sin
        sitt skulle som så till under upp ut vad var varför vart vem vi vid vilken är över"""
    ),
    "danish": _lists(
        """af alle at blev da de dem den denne der deres det dette dig din dit du efter eller en end
        er et for fra ham han hans har havde hende hos hun hvad hvem hvis hvor hvornår i ikke ind
        jeg jo kan man med meget men mig min mine mit mod når ned noget nogle nu og også om op os på
        sig sin skal som så thi til ud under var vi vil være været"""
    ),
    "norwegian": _lists(
        """at av ble bli da de den der deres det dette deg din du eller en enn er et etter for fra
        ha hadde han hans har hun hva hvem hvis hvor hvorfor når i ikke inn jeg kan med meg men min
        mine mitt mot mye nå noe noen og også om opp oss på seg sin skal som så til ut var ved vi
        vil være vært"""
    ),
    "finnish": _lists(
        """ei eivät emme en että et hän hänen he ja jos joka jota kun kuin kuka me mikä milloin minä
        minun minulla mitä missä mutta myös ne nyt niin olen oli olivat olla on ovat se sen sinä
        sitä tai tämä te vaan voi"""
    ),
    "hungarian": _lists(
        """a az azt azért be csak de egy el én engem ez ezt hogy hol ha igen is itt ki kell le
        lehet már meg mert mi mikor mint mit most nagyon ne nekem nem nincs ő őket ott se te úgy van
        vagy vagyok volt"""
    ),
    "turkish": _lists(
        """ama ben beni benim bir biz bu bunu çok da daha de değil diye en gibi hangi için ile ise
        kadar ki kim mi mı mu mü nasıl ne neden nerede niye o olarak oldu olduğu onu onun sen seni
        senin siz şu var ve veya ya yok zaman"""
    ),
    "romanian": _lists(
        """acest această acum ai al am ar are aș asta au avea că care ce cel cine când cu cum da
        dacă de din dar ei el ea este eu fi fost iar îmi în la lui mai mea meu mi nu o pe pentru
        prin sa să sau se și sunt te tu un unde unei unui va"""
    ),
    "catalan": _lists(
        """al als amb això aquest aquesta com de del dels des el els ella em en és era es està ha
        han he i jo la les li lo més meu meva no nosaltres o on per perquè però que què quan qui se
        seu seva són també tinc un una va vaig"""
    ),
    "indonesian": _lists(
        """ada adalah akan aku anda apa atau bagaimana bahwa bisa dalam dan dari dengan di dia ini
        itu jika juga kami kamu kapan karena ke kita lebih mana mereka mengapa oleh pada saya sangat
        saja sebagai sebuah siapa sudah telah tidak untuk yang"""
    ),
    "russian": _lists(
        """а без бы был была были было быть в вам вас весь во вот все всё вы где да для до его ее её
        если есть еще ещё же за и из или им их к как какой когда кто ко ли мне меня мне мой моя мои
        мы на над надо нас наш не него нет ни но ну о об он она они оно от очень по под после потом
        потому почему при про с сам свой себя со так также там тебе тебя то того тоже только том ты
        у уже чем что чтобы эта эти это этот я"""
    ),
    "greek": _lists(
        """αλλά αν από αυτή αυτό αυτός για δε δεν είμαι είναι εγώ εμείς ένα ένας εσύ έχει έχω η ή
        θα και κι μας με μετά μη μου μια να ο οι όμως όταν όχι πολύ που πού ποιος πότε πως πώς σαν
        σας σε στα στη στην στις στο στον στους τα της τη την τι τις το τον του τους των ως"""
    ),
    "arabic": _lists(
        """أن أنا أنت أو أي أين إلى إن الا التي الذي الى ان انا او به بين ثم حتى على عن عند في فيه
        قد كان كانت كل كم كيف لا لم لن له لها ليس ما ماذا متى مع من منذ نحن هذا هذه هل هم هناك هو
        هي و ولا وهو يا"""
    ),
    "hindi": _lists(
        """और कब कर करने कहाँ का कि किया की कुछ के को कोई कौन क्या क्यों गया जब जो तक तथा तो था थी
        थे द्वारा ने नहीं पर बहुत भी मुझे में मेरा मेरी मेरे मैं यह या ये रहा रही रहे लिए वह वे
        साथ से हम ही हुआ हुई हूँ है हैं हो"""
    ),
}  # fmt: skip
"""By Snowball's name of the language. A language without a list has only the commonness of its
words to tell them apart, which BM25 knows."""

FIRST_PERSON: Final = _lists(
    """i i'd i'll i'm i've me mine my myself we we're we've our ours us ich mich mir mein meine wir
    uns unser je j'ai moi mon ma mes nous notre yo mi mis me nosotros soy estoy io mio mia noi eu
    meu minha ik mij mijn jag mig min jeg meg minä minun ben benim я мне меня мой моя мы нас εγώ μου
    أنا مैं मैं मेरा मेरी मुझे aku saya 我 私 俺 僕"""
)
SECOND_PERSON: Final = _lists(
    """you you'd you'll you're you've your yours yourself du dich dir dein deine ihr euch tu te toi
    ton ta tes vous votre tú usted tu tuo voi você vocês jij jouw u ni du dig din sinä sen siz ты
    тебя вы вас εσύ σου أنت तुम आप kamu anda 你 您"""
)
NEGATIONS: Final = _lists(
    """no not never none nobody nothing neither nor without cannot can't don't doesn't didn't won't
    isn't aren't wasn't weren't haven't hasn't hadn't couldn't shouldn't wouldn't nicht kein keine
    nie niemals ne pas jamais sin nunca non mai não nem niet geen inte ikke ei ikke не нет никогда
    δεν όχι لا لم ليس नहीं tidak bukan değil"""
)
TIME_WORDS: Final = _lists(
    """ago yesterday today tonight tomorrow week weeks weekend month months year years day days
    morning afternoon evening night hour hours minute minutes last next recently soon later earlier
    since until january february march april june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday summer winter spring autumn fall
    birthday anniversary christmas easter gestern heute morgen woche monat jahr tag stunde januar
    februar märz mai juni juli oktober dezember montag dienstag mittwoch donnerstag freitag samstag
    sonntag aujourd'hui demain semaine mois année jour heure janvier février mars avril juin
    juillet août septembre octobre novembre décembre lundi mardi mercredi jeudi vendredi samedi
    dimanche ayer hoy mañana semana mes año día hora enero febrero marzo abril mayo junio julio
    agosto septiembre octubre noviembre diciembre lunes martes miércoles jueves viernes sábado
    domingo ieri oggi domani settimana mese anno giorno ontem hoje amanhã mês ano вчера
    сегодня завтра неделя месяц год день час"""
)
NUMBER_WORDS: Final = _lists(
    """one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty
    hundred thousand million billion once twice couple few several dozen half first second third
    eins zwei drei vier fünf deux trois quatre cinq dos tres cuatro cinco due tre quattro cinque"""
)
EXCLAMATIONS: Final = _lists(
    """absolutely actually ah awesome aw aww bye cool congrats congratulations cute definitely
    exactly glad good great haha hello hey hi hmm indeed later lol love maybe nice no oh ok okay
    please perfect sorry sounds sure thank thanks that's totally true wow yay yeah yep yes yup"""
)
"""Words that begin an utterance in a capital and are no name."""

FRAME_WORDS: Final = _lists(
    """accord current currently describe described different discuss discussed kind kinds many
    mention mentioned much name often recommend recommended said say says share shared sort
    specific suggest suggested tell told type types various art arten sorte genre tipo tipos"""
)
"""Words by which a question asks, and which its answer need not have."""
ASKS_WHEN: Final = _lists(
    """when wann quand cuándo quando wanneer när hvornår når milloin mikor когда πότε متى कब kapan
    什么时候 いつ 언제"""
)
ASKS_WHO: Final = _lists(
    "who whom whose wer wem wen qui quién chi quem wie vem hvem kuka ki kim кто ποιος من कौन siapa"
)
ASKS_WHERE: Final = _lists(
    """where city country town wo wohin woher où dónde dove onde waar var hvor missä hol nerede где
    πού أين कहाँ mana"""
)
