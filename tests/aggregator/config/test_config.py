from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from config_sample import ESCROW, GOOD, KEYS, TOKEN

from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS, PERMIT2_ADDRESS
from tallystick.hexadecimal import checksum
from tallystick.keys import create_keystore
from tallystick.signatures import Signer
from tallystick_aggregator.auth.limits import GasLimits
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.multicall import MULTICALL3_ADDRESS
from tallystick_aggregator.chain.settings import ConfigurationError, FeeSettings
from tallystick_aggregator.runtime.config.chains import describe
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.store.opening import sqlite_path

TLS = Path(__file__).parent.parent / "api" / "tls"

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes a configuration, GOOD after some replacements, beside its key files, and loads it."""
    for name, key in KEYS.items():
        file = tmp_path / f"{name}.key"
        file.write_text(key)
        file.chmod(0o600)

    def write_and_load(*changes: tuple[str, str], text: str = GOOD, with_keys: bool = True) -> Config:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "aggregator.toml"
        path.write_text(text)
        return Config.load(path, with_keys=with_keys)

    return write_and_load


def test_a_good_configuration_is_read_with_paths_relative_to_its_file(load: Load, tmp_path: Path) -> None:
    config = load()
    assert sqlite_path(config.store_url) == tmp_path / "books" / "tallystick.db"
    assert config.credentials_path == tmp_path / "books" / "tallystick.db.credentials"
    (chain,) = config.chains
    assert chain.operator == Signer(bytes.fromhex(KEYS["operator"])).address
    assert chain.sender.address == Signer(bytes.fromhex(KEYS["sender"])).address
    assert chain.tokens[0].min_deposit == 1_000
    assert config.withdraw_delays_s == {"eip155:31337": 86_400}
    assert config.rules.reservation_s == 300


def test_the_store_can_be_named_by_its_url(load: Load, tmp_path: Path) -> None:
    setting = 'path = "books/tallystick.db"'
    config = load((setting, f'url = "sqlite://{tmp_path}/other%20books.db"'))
    assert sqlite_path(config.store_url) == tmp_path / "other books.db"
    assert config.credentials_path == tmp_path / "other books.db.credentials"
    config = load((setting, 'url = "memory:"\ncredentials_path = "sellers.db"'))
    assert (config.store_url, config.credentials_path) == ("memory:", tmp_path / "sellers.db")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('path = "a.db"\nurl = "sqlite:///b.db"', "store.url: is set together with store.path"),
        ('url = "oracle://host"', "store.url: begins with 'oracle', allowed sqlite:, memory:"),
        ('url = "b.db"', "store.url: begins with 'b.db', allowed"),
        ('url = "sqlite://b.db"', "store.url: the store's URL is 'sqlite://b.db'; allowed sqlite:///PATH"),
        ('url = "memory:"', "store.credentials_path: got nothing, allowed the path of a file"),
    ],
)
def test_a_store_that_cannot_be_found_is_refused_by_the_setting(load: Load, settings: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(('path = "books/tallystick.db"', settings))


def test_a3_a_deposit_is_one_whole_token_at_least_where_nothing_else_is_said(load: Load) -> None:
    (chain,) = load(('min_deposit = "1000"', "")).chains
    assert chain.tokens[0].min_deposit == 10**6
    (chain,) = load(("decimals = 6", "decimals = 18"), ('min_deposit = "1000"', "")).chains
    assert chain.tokens[0].min_deposit == 10**18


def test_g1_what_payers_may_make_the_operator_spend_is_bounded_by_default_and_can_be_set(load: Load) -> None:
    assert load().gas_limits == GasLimits()
    assert GasLimits().deposit_gas_per_hour_max > 0 < GasLimits().refund_gas_per_hour_max
    assert not GasLimits().refunds_unpaid
    text = """[gas]
deposit_gas_per_hour_max = 1000000
refund_gas_per_hour_max = 0
exact_gas_per_hour_max = 3000000
deposits_per_payer_hour_max = 4
refunds_per_payer_hour_max = 5
refunds_unpaid = true

[limits]"""
    expected = GasLimits(1_000_000, 0, 3_000_000, 4, 5, refunds_unpaid=True)
    assert load(("[limits]", text)).gas_limits == expected


def test_keys_are_not_needed_to_find_the_tokens_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "operator.key").unlink()
    assert load(with_keys=False).credentials_path.name == "tallystick.db.credentials"
    with pytest.raises(ConfigurationError, match=r"chain\[0\]\.operator_key"):
        load()


def test_what_is_logged_of_a_chain_holds_no_key(load: Load) -> None:
    (chain,) = load().chains
    text = describe(chain) + repr(chain)
    assert checksum(chain.escrow) in text
    assert all(key not in text for key in KEYS.values())


def test_a_network_may_have_several_escrows(load: Load) -> None:
    other = "0x" + "08" * 20
    both = f'escrow = [{{address = "{ESCROW}", block = 3}}, {{address = "{other}"}}]'
    chains = load((f'escrow = "{ESCROW}"', both)).chains
    expected = [(bytes.fromhex(ESCROW[2:]), 3), (bytes.fromhex(other[2:]), 0)]
    assert [(chain.escrow, chain.escrow_block) for chain in chains] == expected
    assert len({chain.network for chain in chains}) == 1


def test_batch_settlement_is_served_beside_a_networks_escrows(load: Load) -> None:
    switched_on = "batch_settlement = true\nbatch_settlement_block = 7\noperator_key ="
    own, canonical = load(("operator_key =", switched_on)).chains
    assert (own.is_canonical, canonical.is_canonical) == (False, True)
    assert (canonical.escrow, canonical.escrow_block) == (BATCH_SETTLEMENT_ADDRESS, 7)
    assert canonical == replace(own, escrow=BATCH_SETTLEMENT_ADDRESS, escrow_block=7), "everything else is shared"
    assert (own.domain.name, canonical.domain.name) == ("Tallystick Escrow", "x402 Batch Settlement")


def test_the_standards_contract_is_no_escrow_of_ours(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=r"chain\[0\]\.escrow: got 0x4020.*set batch_settlement = true"):
        load((ESCROW, checksum(BATCH_SETTLEMENT_ADDRESS)))
    with pytest.raises(ConfigurationError, match=r"chain\[0\]\.batch_settlement_block: got -1"):
        load(("operator_key =", "batch_settlement_block = -1\noperator_key ="))


def test_an_operator_contract_may_stand_before_its_signers_key(load: Load) -> None:
    operator = "0x" + "09" * 20
    (chain,) = load(("operator_key =", f'operator = "{operator}"\noperator_key =')).chains
    assert chain.operator == bytes.fromhex("09" * 20)
    assert chain.operator_signer.address == Signer(bytes.fromhex(KEYS["operator"])).address


def test_a_keystore_and_its_password_are_found_beside_the_configuration(load: Load, tmp_path: Path) -> None:
    address = create_keystore(tmp_path / "sender.json", "correct horse")
    (tmp_path / "sender.key").write_text("correct horse")
    (chain,) = load(("file:sender.key", "keystore:sender.json?password-file=sender.key")).chains
    assert chain.sender.address == address


def test_an_endpoint_may_stand_in_a_variable(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPC", "https://rpc.example/key")
    (chain,) = load(("http://127.0.0.1:8545", "env:RPC")).chains
    assert chain.rpc_urls == ("https://rpc.example/key",)


def test_tls_files_are_read(load: Load) -> None:
    listen = 'listen = "127.0.0.1:0"'
    config = load(
        (
            listen,
            (
                f'listen = "0.0.0.0:7402"\ntls_certificate = "{TLS}/server.pem"\ntls_key = "{TLS}/server.key"\n'
                f'tls_client_ca = "{TLS}/ca.pem"'
            ),
        )
    )
    assert config.tls is not None
    assert config.tls.client_ca == (TLS / "ca.pem").read_bytes()


def test_a_public_bind_without_tls_needs_to_be_meant(load: Load) -> None:
    public = 'listen = "0.0.0.0:7402"'
    with pytest.raises(ConfigurationError, match="without TLS"):
        load(('listen = "127.0.0.1:0"', public))
    assert load(('listen = "127.0.0.1:0"', public + "\ninsecure = true")).tls is None


LISTEN = 'listen = "127.0.0.1:0"'
CHAIN = "[[chain]]"
SECOND_TOKEN = GOOD[GOOD.index("[[chain.token]]") :]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        # the form
        ("[server]", "[server", "this is no TOML"),
        ("[server]", "[srever]", "srever: got it, but there is no such setting"),
        (LISTEN, 'lisen = "127.0.0.1:0"', r"server\.lisen: got it, but there is no such setting"),
        (LISTEN, "listen = 7402", r"server\.listen: got an integer, allowed text"),
        ('network = "eip155:31337"', "", r"chain\[0\]\.network: got nothing, but it is needed"),
        ("interval_s = 3600", 'interval_s = "3600"', r"settlement\.interval_s: got text, allowed an integer"),
        ("interval_s = 3600", "interval_s = 0", r"settlement\.interval_s: got 0, allowed 1 to"),
        ("interval_s = 3600", "interval_s = 99999999999", r"settlement\.interval_s"),
        ("interval_s = 3600", "interval_s = 36.5", r"settlement\.interval_s"),
        ("interval_s = 3600", "interval_s = true", r"settlement\.interval_s"),
        (CHAIN, "[chain]", r"chain: got a table, allowed an array"),
        # the server
        (LISTEN, 'listen = "7402"', "HOST:PORT"),
        (LISTEN, 'listen = "127.0.0.1:70000"', "HOST:PORT"),
        (LISTEN, 'listen = "127.0.0.1:x"', "HOST:PORT"),
        (LISTEN, f'{LISTEN}\ntls_key = "x"', r"server\.tls_certificate: got nothing, allowed .* tls_key is set"),
        (LISTEN, f'{LISTEN}\ntls_certificate = "x"', r"server\.tls_key: got nothing, .* tls_certificate is set"),
        (LISTEN, f'{LISTEN}\ntls_client_ca = "x"', "tls_client_ca"),
        (LISTEN, f'{LISTEN}\ntls_certificate = "no.pem"\ntls_key = "no.key"', r"tls_certificate: got 'no\.pem'"),
        (
            LISTEN,
            f'{LISTEN}\ntls_certificate = "operator.key"\ntls_key = "operator.key"',
            r"tls_certificate: 'operator\.key' holds no certificate in PEM",
        ),
        (LISTEN, f'{LISTEN}\nlog_level = "loud"', r"log_level: got 'loud', allowed debug, info"),
        (LISTEN, f"{LISTEN}\nstop_grace_s = -1", "stop_grace_s"),
        # limits
        ("reservation_s = 300", "reservation_s = 0", r"limits\.reservation_s: got 0"),
        ("reservation_s = 300", "reservation_s = 172800", r"limits\.reservation_s"),
        ("reservation_s = 300", "charges_per_batch_max = 100000", r"limits\.charges_per_batch_max"),
        ("reservation_s = 300", "unanswered_batches_max = 0", r"limits\.unanswered_batches_max"),
        ("reservation_s = 300", "streams_max = 0", r"limits\.streams_max"),
        ("reservation_s = 300", 'exposure_per_account_max = "1.5"', r"limits\.exposure_per_account_max: got '1\.5'"),
        ("reservation_s = 300", 'exposure_per_receiver_max = "-1"', r"limits\.exposure_per_receiver_max"),
        (
            "reservation_s = 300",
            "reservations_per_account_max = 100",
            r"limits\.reservations_per_channel_max: got 250, allowed 1 to 100",
        ),
        (
            "reservation_s = 300",
            "reservations_per_receiver_max = 249",
            r"limits\.reservations_per_receiver_max: got 249, allowed 250 to ",
        ),
        ("reservation_s = 300", 'reserved_per_channel_max = "1.5"', r"limits\.reserved_per_channel_max: got '1\.5'"),
        # gas
        (
            "[limits]",
            "[gas]\ndeposit_gas_per_hour_max = 199999\n[limits]",
            r"gas\.deposit_gas_per_hour_max: got 199999, allowed 200000 to 1000000000000, or 0 for no limit",
        ),
        ("[limits]", "[gas]\nrefund_gas_per_hour_max = -1\n[limits]", r"gas\.refund_gas_per_hour_max: got -1"),
        ("[limits]", "[gas]\nexact_gas_per_hour_max = 10\n[limits]", r"gas\.exact_gas_per_hour_max: got 10"),
        ("[limits]", "[gas]\ndeposits_per_payer_hour_max = -1\n[limits]", r"gas\.deposits_per_payer_hour_max"),
        ("[limits]", "[gas]\nrefunds_per_payer_hour_max = -1\n[limits]", r"gas\.refunds_per_payer_hour_max"),
        ("[limits]", "[gas]\nclaim_gas_per_hour_max = 1\n[limits]", "there is no such setting"),
        # chains
        ('network = "eip155:31337"', 'network = "solana:1"', "eip155"),
        ('rpc_urls = ["http://127.0.0.1:8545"]', "rpc_urls = []", "rpc_urls"),
        ('rpc_urls = ["http://127.0.0.1:8545"]', 'rpc_urls = ["ftp://x"]', r"rpc_urls\[0\]"),
        ('rpc_urls = ["http://127.0.0.1:8545"]', 'rpc_urls = ["env:NOT_SET_HERE"]', r"rpc_urls\[0\]"),
        (f'escrow = "{ESCROW}"', 'escrow = "0x12"', r"chain\[0\]\.escrow"),
        (f'escrow = "{ESCROW}"', "escrow = []", r"chain\[0\]\.escrow: allowed at least one"),
        (f'escrow = "{ESCROW}"', 'escrow = [{address = "0x12"}]', r"chain\[0\]\.escrow\[0\]\.address"),
        (
            f'escrow = "{ESCROW}"',
            f'escrow = [{{address = "{ESCROW}"}}, {{address = "{ESCROW}"}}]',
            r"chain\[0\]\.escrow: allowed .* each address once",
        ),
        (
            f'escrow = "{ESCROW}"',
            f'escrow = [{{address = "{ESCROW}"}}]\nescrow_block = 4',
            r"chain\[0\]\.escrow_block: got 4",
        ),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\npoll_s = 0', "poll_s"),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\npoll_s = nan', "poll_s"),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\nrpc_timeout_s = inf', "rpc_timeout_s"),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\nconfirmations = -1', "confirmations"),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\noperator = "x"', r"chain\[0\]\.operator"),
        ("file:operator.key", "file:missing.key", r"chain\[0\]\.operator_key: got 'file:.*missing\.key'"),
        ("file:operator.key", "operator.key", r"chain\[0\]\.operator_key"),
        ("decimals = 6", "decimals = 99", r"token\[0\]\.decimals: got 99"),
        ('symbol = "USDC"', 'symbol = ""', r"token\[0\]\.symbol"),
        ('min_deposit = "1000"', 'min_deposit = "0"', r"token\[0\]\.min_deposit: got 0, allowed 1 to "),
        ('min_deposit = "1000"', f'min_deposit = "{2**128}"', r"token\[0\]\.min_deposit"),
        ('min_deposit = "1000"', 'min_deposit = "01000"', r"token\[0\]\.min_deposit: got '01000'"),
        ('min_deposit = "1000"', f'min_deposit = "1000"\n{SECOND_TOKEN}', "one address stands there twice"),
        # what has to fit together
        (
            f'escrow = "{ESCROW}"',
            f'escrow = "{ESCROW}"\nwithdraw_delay_s_min = 7799',
            r"withdraw_delay_s_min: got 7799",
        ),
        ("interval_s = 3600", "interval_s = 43200", "withdraw_delay_s_min"),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\nwithdraw_delay_s = 900', r"withdraw_delay_s: got 900"),
        (f'escrow = "{ESCROW}"', f'escrow = "{ESCROW}"\nwithdraw_delay_s_max = 99999999', "withdraw_delay_s"),
    ],
)
def test_what_cannot_work_is_one_sentence_that_names_the_setting(load: Load, old: str, new: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        load((old, new))
    assert "\n" not in str(refused.value)
    assert all(key not in str(refused.value) for key in KEYS.values())


def test_two_chains_of_one_network_are_refused(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="stands there twice"):
        load(text=GOOD + GOOD[GOOD.index(CHAIN) :])


def test_a_file_without_a_chain_is_refused(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="chain"):
        load(text=GOOD[: GOOD.index(CHAIN)])


def test_a_key_that_others_may_read_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sender.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"chain\[0\]\.sender_key.*chmod 600") as refused:
        load()
    assert KEYS["sender"] not in str(refused.value)


@pytest.mark.parametrize("scheme", ["", "file:"])
def test_a_key_in_the_file_itself_is_refused_and_not_shown(load: Load, scheme: str) -> None:
    with pytest.raises(ConfigurationError, match=r"chain\[0\]\.sender_key") as refused:
        load(("file:sender.key", scheme + KEYS["sender"]))
    assert KEYS["sender"] not in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = " + b"[" * 5_000, b"# " + b"x" * 2_000_000])
def test_what_is_no_text_no_toml_or_too_long_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "aggregator.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"aggregator\.toml"):
        Config.load(path)


def test_a_file_that_is_not_there_is_one_sentence_that_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: there is no such file; `tallystick deploy`.* --config"):
        Config.load(tmp_path / "none.toml")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        Config.load(tmp_path)


# Settings of a chain (R5).

CHAIN = "[[chain.token]]"


def test_r5_every_limit_of_a_chain_can_be_set(load: Load) -> None:
    settings = """\
logs_range_blocks_max = 10
head_age_s_max = 7200
priority_fee_per_gas_gwei_min = 25
priority_fee_per_gas_gwei_max = 40
max_fee_per_gas_gwei = 300
urgent_max_fee_per_gas_gwei = 900.5

"""
    (chain,) = load((CHAIN, settings + CHAIN), ('min_deposit = "1000"', "worth_gwei = 333333")).chains
    assert (chain.logs_range_blocks_max, chain.head_age_s_max) == (10, 7_200)
    assert chain.fees == FeeSettings(300 * 10**9, 25 * 10**9, 40 * 10**9, 900_500_000_000)
    assert chain.tokens[0].worth_wei(10**6) == 333_333 * 10**9


def test_r5_a_setting_that_is_not_there_is_the_default(load: Load) -> None:
    (chain,) = load().chains
    assert (chain.logs_range_blocks_max, chain.head_age_s_max, chain.fees) == (2_000, None, FeeSettings())
    assert chain.fees.urgent_max_fee_wei == 4 * chain.fees.max_fee_per_gas_wei
    assert chain.tokens[0].worth_wei(10**6) is None


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("logs_range_blocks_max = 0", r"chain\[0\].logs_range_blocks_max: got 0, allowed 1 to 1000000"),
        ("head_age_s_max = -1", r"chain\[0\].head_age_s_max: got -1, allowed 0 to"),
        ("priority_fee_per_gas_gwei_min = 45", r"gwei_min: got 45.0, allowed 0 to eight ninths of .* \(50.0\)"),
        ("priority_fee_per_gas_gwei_min = nan", r"priority_fee_per_gas_gwei_min: got nan"),
        ("priority_fee_per_gas_gwei_max = 501", r"gwei_max: got 501.0, allowed at most max_fee_per_gas_gwei \(500.0\)"),
        ("urgent_max_fee_per_gas_gwei = 499", r"urgent_max_fee_per_gas_gwei: got 499.0, allowed .* \(500.0\) or more"),
        ("urgent_max_fee_per_gas_gwei = inf", r"urgent_max_fee_per_gas_gwei: got inf"),
        ("urgent_max_fee_per_gas_gwei = -1", r"urgent_max_fee_per_gas_gwei: got -1.0"),
    ],
)
def test_r5_a_limit_that_cannot_work_is_refused_by_its_name(load: Load, setting: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        load((CHAIN, f"{setting}\n\n{CHAIN}"))


@pytest.mark.parametrize("worth", ["-1", "inf", "nan", "1e19"])
def test_r5_a_tokens_worth_is_a_number(load: Load, worth: str) -> None:
    with pytest.raises(ConfigurationError, match=r"chain\[0\].token\[0\].worth_gwei: got"):
        load(('min_deposit = "1000"', f"worth_gwei = {worth}"))


METHODS = 'min_deposit = "1000"\ntransfer_methods = '


def test_a_token_is_moved_by_eip3009_unless_it_is_said(load: Load) -> None:
    (token,) = load().chains[0].tokens
    assert (token.by_eip3009, token.by_permit2, token.sponsors_permits) == (True, False, False)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ('["eip3009", "permit2"]', (True, True, False)),
        ('["permit2"]\neip2612 = true', (False, True, True)),
    ],
)
def test_how_a_token_is_moved_is_configured(load: Load, methods: str, expected: tuple[bool, bool, bool]) -> None:
    (token,) = load(('min_deposit = "1000"', METHODS + methods)).chains[0].tokens
    assert (token.by_eip3009, token.by_permit2, token.sponsors_permits) == expected


@pytest.mark.parametrize(
    ("methods", "problem"),
    [
        ("[]", r"chain\[0\].token\[0\].transfer_methods: got"),
        ('["erc7710"]', r"transfer_methods: got \['erc7710'\], allowed one or both of \['eip3009', 'permit2'\]"),
        ('["permit2", "permit2"]', "transfer_methods: got"),
        ('["eip3009"]\neip2612 = true', r"token\[0\].eip2612: got true, allowed only where transfer_methods"),
    ],
)
def test_ways_to_move_a_token_that_cannot_be_are_told(load: Load, methods: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        load(('min_deposit = "1000"', METHODS + methods))


OPEN = '[exact_open]\nsender_key = "file:strangers.key"\n'


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """The file of the key that pays for strangers."""
    file = tmp_path / "strangers.key"
    file.write_text("33" * 32)
    file.chmod(0o600)
    return file


def test_x9_exact_is_on_without_a_minimum_unless_it_is_told_otherwise(load: Load) -> None:
    assert load().exact_limits == TransferLimits(enabled=True, amount_min=0)
    config = load(text='[exact]\nenabled = false\namount_min = "500"\n' + GOOD)
    assert config.exact_limits == TransferLimits(enabled=False, amount_min=500)


BUNDLES = 'sender_key = "file:sender.key"\n'
BY_PERMIT2 = ('min_deposit = "1000"', 'min_deposit = "1000"\ntransfer_methods = ["permit2"]')


def with_bundles(url: str = "http://127.0.0.1:1", key: str = "file:strangers.key") -> tuple[str, str]:
    return BUNDLES, BUNDLES + f'bundle_url = "{url}"\nbundle_sender_key = "{key}"\n'


@pytest.mark.usefixtures("strangers")
def test_bundles_have_a_builder_and_a_key_of_their_own(load: Load) -> None:
    assert load().chains[0].bundles is None
    bundles = load(BY_PERMIT2, with_bundles()).chains[0].bundles
    assert bundles is not None
    assert (bundles.url, bundles.sender.address) == ("http://127.0.0.1:1", Signer(bytes.fromhex("33" * 32)).address)
    assert "127.0.0.1:1" not in repr(bundles), "some URLs hold a key"


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([with_bundles()], r"chain\[0\]\.bundle_url: allowed only where a token's transfer_methods"),
        ([BY_PERMIT2, with_bundles(url="")], r"bundle_url: allowed only together with bundle_sender_key"),
        ([BY_PERMIT2, with_bundles(key="")], r"bundle_url: allowed only together with bundle_sender_key"),
        ([BY_PERMIT2, with_bundles(url="builder")], r"bundle_url: allowed an http:// or https:// URL"),
        (
            [BY_PERMIT2, with_bundles(key="file:sender.key")],
            r"bundle_sender_key: got the sender's or the operator's key",
        ),
        ([BY_PERMIT2, with_bundles(key="file:operator.key")], r"bundle_sender_key: got the sender's or the operator's"),
    ],
)
def test_bundles_that_cannot_work_are_refused(load: Load, changes: list[tuple[str, str]], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(*changes)


@pytest.mark.usefixtures("strangers")
def test_strangers_do_not_share_the_key_of_bundles(load: Load) -> None:
    old, new = BY_PERMIT2
    text = GOOD.replace(old, new).replace(*with_bundles())
    with pytest.raises(ConfigurationError, match=r"exact_open\.sender_key: got a key that eip155:31337 uses"):
        load(text=OPEN + text)


def test_factories_of_wallets_are_none_unless_they_are_listed(load: Load) -> None:
    assert load().exact_limits.erc6492_factories == frozenset()
    config = load(text=f'[exact]\nerc6492_factories = ["0x{"fa" * 20}"]\n' + GOOD)
    assert config.exact_limits.erc6492_factories == {b"\xfa" * 20}


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("0x1234", r"exact\.erc6492_factories\[1\]: got 0x and 4 hex digits, allowed 0x and 40"),
        ("0x" + "00" * 20, "which is nobody's"),
        (checksum(MULTICALL3_ADDRESS), "which is Multicall3"),
        (checksum(PERMIT2_ADDRESS), "which is Permit2"),
        (ESCROW, "which is the escrow of eip155:31337"),
        (TOKEN, "which is the token USDC of eip155:31337"),
        (checksum(Signer(bytes.fromhex(KEYS["operator"])).address), "which is the operator of eip155:31337"),
    ],
)
def test_a_factory_that_payers_must_not_have_called_is_refused(load: Load, factory: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(text=f'[exact]\nerc6492_factories = ["0x{"fa" * 20}", "{factory}"]\n' + GOOD)


@pytest.mark.usefixtures("strangers")
def test_strangers_have_nothing_unless_there_is_a_sender_of_their_own(load: Load) -> None:
    assert load().exact_open is None
    config = load(text=OPEN + "payments_per_payer_hour_max = 7\n" + GOOD)
    assert config.exact_open is not None
    assert config.exact_open.sender.address == Signer(bytes.fromhex("33" * 32)).address
    assert config.exact_open.limits == TransferLimits(amount_min=10_000, per_receiver_hour_max=600)
    assert config.exact_open.gas_limits.exacts_per_payer_hour_max == 7
    assert config.exact_open.gas_limits.exact_gas_per_hour_max == 10_000_000


@pytest.mark.parametrize("name", ["sender", "operator"])
def test_strangers_never_spend_from_a_key_of_the_operators(load: Load, strangers: Path, name: str) -> None:
    strangers.write_text(KEYS[name])
    with pytest.raises(ConfigurationError, match=r"exact_open\.sender_key: got a key that eip155:31337 uses"):
        load(text=OPEN + GOOD)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("gas_per_hour_max = 1", "exact_open.gas_per_hour_max: got 1, allowed 120000 to"),
        ("payments_per_payer_hour_max = 0", "exact_open.payments_per_payer_hour_max: got 0, allowed 1 to"),
        ("payments_per_receiver_hour_max = 0", "exact_open.payments_per_receiver_hour_max: got 0, allowed 1 to"),
        ('amount_min = "-1"', "exact_open.amount_min"),
    ],
)
def test_limits_of_strangers_that_cannot_be_are_refused(load: Load, setting: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(text=OPEN + setting + "\n" + GOOD)
