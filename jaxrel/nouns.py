"""Fixed word lists that default names are taken from. A changed list renames every default database: raise `STREAM_VERSION` with it."""

__all__ = ["GROUPS", "LABELS", "MEASURES", "QUALITIES", "TABLES"]

# tables: plain singular nouns, none of them a keyword of SQL or Python
TABLES = tuple(
    """
    actor advisor agency agent aircraft airline airport album alumnus animal answer apartment appliance applicant appointment area article
    artist asset athlete atlas auction audience author award bakery balance band bank barrel basket batch battery beacon bed bicycle bidder
    bill boat bonus book booking bottle box branch brand brewery bridge broker bucket budget building bundle bus buyer cabin cable cafe
    camera campaign candidate canyon captain card cargo carrier cart castle category cell certificate chair chapter charity chef child choir
    cinema citizen city claim client clinic coach coin collection college color committee company complaint component composer concert
    contact container contest contract cottage country county coupon course court crate creditor crew crop customer dealer debtor deck
    delivery deposit depot desk device diagnosis diet director disease dish district doctor donation donor dose drawer driver drone editor
    election employee employer engine engineer episode estate exam exhibit expense expert facility factory farm farmer favorite feature fee
    festival field film fine firm fleet flight flower folder forest forum fountain friend fruit fund furniture gadget galaxy gallery game
    garage garden gate gauge gift goal grade grain guest guide guild gym habitat hall harbor harvest helmet hobby holiday hospital hostel
    hotel house household idea illness incident industry ingredient inspector instructor insurance interview investor invoice island item
    job journal journey judge kennel kiosk kitchen lab lake landlord lane laptop lawyer league lease lecture lender lens lesson letter
    library license listing loan locker lodge lottery luggage machine magazine mailbox manager mansion manual market mayor meal medal
    medicine meeting membership memo menu merchant message meter mission museum musician nation nest network newspaper nurse offer office
    opera orchard outlet package painter painting pallet parade parcel parish park parking passenger passport patent patient payment payroll
    pet pharmacy phone photo physician pier pilot pitch planet planner plant platform player playlist poem poet pond port poster
    prescription prize product professor promotion property provider province publisher pupil puzzle quarry question quiz quota receipt
    recipe referee refund region rental repair researcher reservation restaurant reviewer reward rider river road robot rocket room salary
    scholar school scout screen season seat seller seminar sensor shelf ship shipment shop skill species spectator speech sponsor sport
    squad stadium staff stage station storm street student studio subscriber suburb subway supplier supply surgeon surgery survey symptom
    tailor tank tavern taxi teacher team tenant terminal theater ticket timber tool topic tour tournament tower town toy trade trailer train
    trainer trait treatment tree tribe tribute trip truck tunnel tutor valley vehicle vendor venue vessel villa village vineyard visit
    visitor volunteer voter voucher voyage wagon wallet warehouse warranty watch weapon website wedding winery witness workshop writer yacht
    zoo
    """.split()
)

# first words of feature columns
QUALITIES = tuple(
    """
    actual annual average base basic bright broad calm central clean clear close cold common cool daily deep dense direct dry early even
    exact extra fair fast final fine firm fixed flat formal fresh full general gross hard heavy high hot initial inner joint known large
    late light likely linked little local long loose low main major mean medium mild minor mixed monthly narrow net normal open outer
    overall partial past plain planned proper quick quiet raw real recent regular relative remote rough safe sharp short simple slow small
    smooth soft solid stable steady steep strong sudden tall thick thin tight total upper usual valid vast warm weak weekly wide
    """.split()
)

# second words of numeric and integer columns
MEASURES = tuple(
    """
    age altitude amount balance bonus brightness capacity charge cost coverage credit debt delay demand density depth diameter discount
    distance dosage duration effort energy expense factor fee flow focus force fraction frequency grade growth height humidity impact income
    intensity length limit load loss margin mass noise output payment penalty performance pitch power pressure price profit progress quality
    quantity quota rating ratio reach reserve revenue reward risk salary score speed spread strength supply surface tax temperature tension
    thickness thrust torque traffic turnover usage value velocity voltage volume wage weight width
    """.split()
)

# second words of categorical columns
GROUPS = tuple(
    """
    band brand category color dialect family finish flavor format genre grade group habit kind layout material method mode mood origin
    pattern phase priority purpose rank region scheme season sector segment shade shape size source stage state status style texture theme
    tier tone topic type variant zone
    """.split()
)

# categories; their number is prime, so that every step walks through all of them
LABELS = tuple(
    """
    amber apple arrow aspen autumn azure bamboo basil beige birch blue bronze brown cedar cherry clay clover cobalt copper coral cotton
    cream crimson crystal delta denim desert eagle ebony echo elm ember emerald falcon fern flint forest garnet ginger gold granite green
    grey hazel heron honey indigo iris iron ivory ivy jade jasmine lava lemon lilac lime linen lotus lunar maple marble meadow mint misty
    moss navy nickel ocean ochre olive onyx opal orange orchid pearl pepper pine plum poppy prism purple quartz red reef ruby rust saffron
    sage sand scarlet silver sky slate spruce steel stone sunny teal thistle topaz tulip umber velvet violet walnut white willow winter
    """.split()
)
