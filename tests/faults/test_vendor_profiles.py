"""Every vendor profile against what is known of the vendor's module, as the fault module emulates it over SoftHSM.

The one thing to know: none of this was seen on hardware (tests/faults/p11fault.c says where each quirk comes from), so
what passes here is that we keep to what we believe. Each class has one service on each loop, for all of its tests.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import anyio
import pytest
from attrs import evolve, field, frozen
from hsm_hosts import running
from p11fault import FaultModule
from p11fault_rules import (
    CantLock,
    Delay,
    Directive,
    Gone,
    Idle,
    Logout,
    Quirk,
    QuirkName,
    Replugged,
    Return,
    SlotOffset,
)
from services import config_for, digest_of, eventually, recovered_address
from softhsm import SoftHSMToken

import manahsm
from manahsm.config.vendors import Vendor, profile_of
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostStartFailed, HSMFailure
from manahsm.hsm.outcomes import Action
from manahsm.requests import Backend
from manahsm.signing.slot import Slot

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="class", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both loops, each with a service of its own for all tests of a class."""
    return str(request.param)


@frozen
class Emulated:
    """A vendor as we believe it to be.

    Attributes:
        vendor: whose profile is configured.
        ways: what its module does unlike SoftHSM.
        pin: its form of a PIN, around the one of the token.
        pool: what the operator asks for.
        sessions: how many of them there are in the end.
    """

    vendor: Vendor
    ways: tuple[Directive, ...]
    pin: str = "{}"
    pool: dict[str, int] = field(factory=lambda: {"size": 4, "max_overflow": 0, "processes": 2})
    sessions: int = 4

    def pin_file(self, token: SoftHSMToken) -> Path:
        path = token.directory / f"pin of {self.vendor}"
        path.touch(mode=0o600)
        path.write_text(self.pin.format(token.pin))
        return path

    def config(self, fault: FaultModule, directory: Path) -> dict[str, Any]:
        """The token as a slot of its own, so that the pool is that of the operator, narrowed to the device."""
        slot = {
            "token_label": fault.token.label,
            "vendor": str(self.vendor),
            "library_path": str(fault.library),
            "pin_file": str(self.pin_file(fault.token)),
        }
        config = config_for(
            fault.token,
            directory,
            environment=dict(fault.environment),
            slots=[slot],
            connection_pool=self.pool,
            circuit_breaker={"open_for": 100},
        )
        for own in ("token_label", "pin_file"):
            del config["hsm"][own]
        return config


def quirks(*names: QuirkName) -> tuple[Directive, ...]:
    return tuple(Quirk(name) for name in names)


@frozen
class Site:
    """A service in production, with a key that is in the token only."""

    fault: FaultModule
    service: manahsm.Service
    key: manahsm.KeyInfo

    @property
    def slot(self) -> Slot:
        return self.service._slots[0]

    @property
    def hosts(self) -> tuple[HostProcess, ...]:
        return self.slot.pool.hosts

    @property
    def pids(self) -> set[int]:
        return {host.info.pid for host in self.hosts if host.info}

    @contextmanager
    def doing(self, *directives: Directive) -> Iterator[None]:
        """The token does this, too, for a while."""
        self.fault.add(*directives)
        try:
            yield
        finally:
            self.fault.lift(*directives)

    async def sign(self, key: manahsm.KeyInfo | None = None, number: int = 1) -> manahsm.Signature:
        """Sign, by the right key or not at all."""
        key = key or self.key
        with anyio.fail_after(20):
            signature = await self.service.sign_hash(digest_of(number), key.key_id)
        assert recovered_address(signature, digest_of(number)) == key.address
        return signature

    async def sign_many(self, count: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Sign so many at once; each must succeed, in the token."""

        async def one(number: int) -> None:
            assert (await self.sign(number=number)).backend is Backend.HSM

        async with anyio.create_task_group() as callers:
            for number in range(count):
                callers.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
            meanwhile()

    async def complete(self) -> None:
        """Wait until both hosts are there, with all their sessions."""
        await eventually(lambda: len(self.hosts) == 2)
        with anyio.fail_after(20):
            await self.service.filled()

    async def signs_again(self) -> None:
        """It gets over what was, by itself."""
        with anyio.fail_after(20):
            while True:
                try:
                    signature = await self.sign()
                except manahsm.HSMUnavailable:
                    await anyio.lowlevel.checkpoint()
                else:
                    assert signature.backend is Backend.HSM
                    return


@pytest.fixture(scope="class")
async def site(
    anyio_backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    cls = request.cls
    directory = tmp_path_factory.mktemp(f"{cls.__name__}-{anyio_backend}")
    token = cls.token(directory / "softhsm", request)
    with FaultModule.over(token, directory / "p11fault.control") as fault:
        fault.set(*cls.EMULATED.ways)
        async with manahsm.open_service(cls.EMULATED.config(fault, directory)) as service:
            yield Site(fault, service, await service.generate_key("hot", "transaction_signer"))


class AnyVendor:
    """What holds for each of them."""

    EMULATED: ClassVar[Emulated]

    @staticmethod
    def token(directory: Path, _: pytest.FixtureRequest) -> SoftHSMToken:
        return SoftHSMToken.create(directory)

    async def test_a_key_made_in_the_token_signs(self, site: Site) -> None:
        assert (await site.sign()).backend is Backend.HSM

    async def test_an_imported_key_keeps_its_address_and_signs_in_the_token(self, site: Site) -> None:
        imported = await site.service.import_key(
            os.urandom(32), "imported", "transaction_signer", keep_software_twin=True
        )
        assert (await site.sign(imported)).backend is Backend.HSM

    async def test_every_key_is_found_in_the_token_by_its_point(self, site: Site) -> None:
        found = {key.public_key for key in await site.hosts[0].find_keys()}
        assert found == {key.public_key for key in await site.service.list_keys()}

    async def test_all_sessions_sign_and_none_was_refused(self, site: Site) -> None:
        await site.complete()
        await site.sign_many(3 * self.EMULATED.sessions)
        stats = site.slot.pool_stats()
        assert (stats.open, stats.discarded) == (self.EMULATED.sessions, {})
        anchors = len(site.hosts)
        assert site.fault.open_sessions() == stats.open + anchors
        assert site.fault.calls("C_OpenSession") == stats.opened + anchors

    async def test_a_killed_host_costs_no_request(self, site: Site) -> None:
        await site.complete()
        victim = site.hosts[0].info
        assert victim is not None
        await site.sign_many(8, lambda: os.kill(victim.pid, signal.SIGKILL))
        await eventually(lambda: victim.pid not in site.pids)
        assert site.fault.reused_after_failure == 0


class TestThales(AnyVendor):
    EMULATED = Emulated(Vendor.THALES, quirks(QuirkName.LOGOUT_DROPS_SESSIONS, QuirkName.NO_POINT_ON_PRIVATE_KEY))

    async def test_load_sharing_is_on(self, site: Site) -> None:
        assert site.slot.config.environment["CKNFAST_LOADSHARING"] == "1"

    async def test_a_host_that_logs_out_as_it_stops_leaves_the_sessions_of_the_other_alone(self, site: Site) -> None:
        await site.complete()
        logouts = site.fault.calls("C_Logout")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.hosts[0].stop)
            tasks.start_soon(site.sign_many, 8)
        assert site.fault.calls("C_Logout") == logouts + 1

    async def test_a_logical_token_that_was_dropped_is_logged_into_again_by_the_same_host(self, site: Site) -> None:
        await site.complete()
        hosts, dropped = site.pids, Logout("C_SignInit", count=1)
        with site.doing(dropped):
            await site.sign_many(1)
            assert site.fault.fired(dropped) == 1
        assert site.pids == hosts

    async def test_keys_are_listed_and_made_although_the_logical_token_was_dropped(self, site: Site) -> None:
        await site.complete()
        host = site.hosts[0]
        before = {key.public_key for key in await host.find_keys()}
        for call in ("C_GetSessionInfo", "C_FindObjectsFinal"):  # before it looks, and while it does
            with site.doing(Logout(call, count=1)):
                assert {key.public_key for key in await host.find_keys()} == before
        with site.doing(Logout("C_GetSessionInfo", count=1)):
            await site.sign(await site.service.generate_key("after the drop", "transaction_signer"))


class TestCloudHSM(AnyVendor):
    EMULATED = Emulated(
        Vendor.AWS_CLOUDHSM,
        quirks(
            QuirkName.PIN_CU_USER,
            QuirkName.RW_SESSIONS_ONLY,
            QuirkName.HANDLES_PER_SESSION,
            QuirkName.POINT_ON_PRIVATE_KEY,
            QuirkName.NO_POINT_ON_PUBLIC_KEY,
        ),
        pin="CU_signer:{}",
    )

    async def test_throttling_costs_neither_a_request_nor_a_host(self, site: Site) -> None:
        await site.complete()
        hosts, throttled = site.pids, Return("C_Sign", "CKR_DEVICE_ERROR", every=3)
        before = Counter(site.slot.pool_stats().discarded)
        with site.doing(throttled):
            for number in range(14):  # more than often on each host
                assert (await site.sign(number=number)).backend is Backend.HSM
            assert site.fault.fired(throttled) >= 6
        assert site.pids == hosts
        assert set(Counter(site.slot.pool_stats().discarded) - before) <= {"DEVICE_THROTTLED", "HOST_GONE"}

    async def test_a_rotated_key_is_relabelled_where_its_halves_are(self, site: Site) -> None:
        new = await site.service.rotate_key(site.key.key_id)
        await site.sign(new)
        labels = {key.public_key: key.label for key in await site.hosts[0].find_keys()}
        assert labels[new.public_key] == "hot"
        assert labels[site.key.public_key] != "hot"


class TestLuna(AnyVendor):
    EMULATED = Emulated(
        Vendor.SAFENET_LUNA,
        (
            *quirks(QuirkName.GONE_UNTIL_INITIALIZE),
            Delay("C_Initialize", 100),
            Delay("C_OpenSession", 20, jitter=20),
        ),
        sessions=6,
        pool={"size": 6, "max_overflow": 0, "processes": 2},
    )

    async def test_a_group_that_lost_all_its_members_is_initialized_anew_by_other_hosts(self, site: Site) -> None:
        await site.complete()
        twin = await site.service.import_key(os.urandom(32), "twin", "transaction_signer", keep_software_twin=True)
        seen = site.pids
        with site.doing(Gone()):
            with pytest.raises(manahsm.HSMUnavailable, match="CKR_DEVICE_REMOVED"):
                await site.sign()
            assert (await site.sign(twin)).backend is Backend.SOFTWARE
        await site.signs_again()
        assert site.pids - seen


class TestUtimaco(AnyVendor):
    EMULATED = Emulated(Vendor.UTIMACO, quirks(QuirkName.BARE_EC_POINT))

    async def test_points_of_65_bytes_are_as_good_as_bare_ones(self, site: Site) -> None:
        bare, raw = quirks(QuirkName.BARE_EC_POINT, QuirkName.RAW_EC_POINT)
        site.fault.lift(bare)
        with site.doing(raw):
            await site.sign(await site.service.generate_key("raw", "transaction_signer"))
            await self.test_every_key_is_found_in_the_token_by_its_point(site)
        site.fault.add(bare)

    async def test_sessions_that_the_device_closed_because_they_were_idle_cost_no_request(self, site: Site) -> None:
        await site.complete()
        quiet_since = monotonic()
        await eventually(lambda: monotonic() > quiet_since + 0.2)  # the device's own clock, which is nobody's to move
        with site.doing(Idle(200)):
            await site.sign_many(4)
            for host in site.hosts:
                assert await host.find_keys()
        assert site.slot.pool_stats().discarded["CKR_SESSION_HANDLE_INVALID"] >= 1

    async def test_a_device_that_dropped_all_sessions_and_the_login_is_logged_into_again(self, site: Site) -> None:
        await site.complete()
        hosts = site.pids
        site.fault.add(Replugged(1))
        await site.sign_many(8)
        await site.sign(await site.service.generate_key("after the loss", "transaction_signer"))
        assert site.pids == hosts


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> SoftHSMToken:
    """A token where ids of two bytes have collided: two whole pairs, and a pair beside a public key left behind."""
    token = SoftHSMToken.create(tmp_path_factory.mktemp("untidy"))
    tool = ("pkcs11-tool", "--module", str(token.library), "--login", "--pin", token.pin)
    for number, identifier in enumerate(["0102", "0102", "0304", "0304"]):
        token.run_tool(
            *tool, "--keypairgen", "--key-type", "EC:secp256k1", "--id", identifier, "--label", f"old {number}"
        )
    token.run_tool(*tool, "--delete-object", "--type", "privkey", "--id", "0304", "--label", "old 2")
    return token


class TestYubiHSM(AnyVendor):
    EMULATED = Emulated(
        Vendor.YUBIHSM,
        quirks(QuirkName.PIN_AUTH_KEY, QuirkName.SESSIONS_16, QuirkName.CKA_ID_2_REFUSED),
        pin="0001{}",
        pool={"size": 40, "max_overflow": 40, "processes": 2},
        sessions=14,
    )

    @staticmethod
    def token(directory: Path, request: pytest.FixtureRequest) -> SoftHSMToken:
        original: SoftHSMToken = request.getfixturevalue("untidy")
        shutil.copytree(original.directory / "tokens", directory / "tokens")
        token = evolve(original, directory=directory)
        token.conf.write_text(original.conf.read_text().replace(str(original.directory), str(directory)))
        return token

    async def test_the_device_is_full_and_a_killed_host_finds_its_place_again(self, site: Site) -> None:
        await site.complete()
        victim, opened, asked = site.hosts[0].info, site.slot.pool_stats().opened, site.fault.calls("C_OpenSession")
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        await eventually(lambda: victim.pid not in site.pids)
        await site.complete()
        await eventually(lambda: site.fault.open_sessions() == 16)  # a place is looked for again after a while
        anchors = 1
        assert site.fault.calls("C_OpenSession") - asked == site.slot.pool_stats().opened - opened + anchors

    async def test_a_login_is_renewed_although_there_is_no_room_for_another_session(self, site: Site) -> None:
        await site.complete()
        hosts = site.pids
        with site.doing(Logout("C_GetSessionInfo", count=1)):
            await site.hosts[0].find_keys()
        await site.sign_many(8)
        assert site.pids == hosts

    async def test_keys_whose_short_ids_collide_sign_each_for_itself(self, site: Site) -> None:
        old = [key for key in await site.service.list_keys() if key.label.startswith("old")]
        assert sorted(key.label for key in old) == ["old 0", "old 1", "old 3"]
        for key in old:
            await site.service.assign_role(key.key_id, "transaction_signer")
            await site.sign(key)

    async def test_ids_that_are_cut_silently_do_no_harm(self, site: Site) -> None:
        refused, cut = quirks(QuirkName.CKA_ID_2_REFUSED, QuirkName.CKA_ID_2)
        site.fault.lift(refused)
        with site.doing(cut):
            await site.sign(await site.service.generate_key("cut", "transaction_signer"))
        site.fault.add(refused)


class TestSoftHSM(AnyVendor):
    EMULATED = Emulated(Vendor.SOFTHSM, quirks(QuirkName.NO_POINT_ON_PRIVATE_KEY))


class TestGeneric(AnyVendor):
    """A module that can not be used by threads, so that each host has one session."""

    EMULATED = Emulated(Vendor.GENERIC, (CantLock(),), sessions=2)

    async def test_a_token_that_comes_back_in_another_slot_is_known_by_label_and_serial(self, site: Site) -> None:
        await site.complete()
        before = {host.info.slot_id for host in site.hosts if host.info}
        with site.doing(Gone()), pytest.raises(manahsm.HSMUnavailable):
            await site.sign()
        with site.doing(SlotOffset(7)):
            await site.signs_again()
            after = {host.info.slot_id for host in site.hosts if host.info}
        assert after - before == {slot_id + 7 for slot_id in before}


# ---- the wrong profile: it works all the same, or says what to do ----


@pytest.fixture(scope="class")
async def host(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[HostProcess, FaultModule]]:
    """A host without any quirk in its settings, over a module that can be given some."""
    directory = tmp_path_factory.mktemp(f"wrong-{anyio_backend}")
    token = SoftHSMToken.create(directory / "softhsm")
    with FaultModule.over(token, directory / "p11fault.control") as fault:
        async with running(fault.settings(quirks=profile_of(Vendor.GENERIC).quirks)) as host:
            yield host, fault


async def signs(host: HostProcess, label: str) -> bool:
    """Make a key, and sign with it on a session of its own."""
    key = await host.generate_key(label)
    session = await host.open_session()
    (signature,) = await session.sign([(key.public_key, digest_of(1))])
    await session.close()
    return isinstance(signature, bytes) and key in await host.find_keys()


class TestWrongProfile:
    @pytest.mark.parametrize(
        "names",
        [
            (QuirkName.RW_SESSIONS_ONLY,),
            (QuirkName.RAW_EC_POINT,),
            (QuirkName.HANDLES_PER_SESSION,),
            (QuirkName.CKA_ID_2,),
            (QuirkName.POINT_ON_PRIVATE_KEY, QuirkName.NO_POINT_ON_PUBLIC_KEY),
        ],
        ids=" and ".join,
    )
    async def test_works_where_the_module_can_be_understood_all_the_same(
        self, host: tuple[HostProcess, FaultModule], names: tuple[QuirkName, ...]
    ) -> None:
        process, fault = host
        fault.set(*quirks(*names))
        assert await signs(process, "k")

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            (QuirkName.BARE_EC_POINT, 'CKA_EC_POINT: 64 bytes.*vendor = "utimaco"'),
            (QuirkName.CKA_ID_2_REFUSED, 'CKA_ID of 16 bytes.*vendor = "yubihsm"'),
        ],
    )
    async def test_is_named_where_no_key_can_be_made(
        self, host: tuple[HostProcess, FaultModule], name: QuirkName, advice: str
    ) -> None:
        process, fault = host
        fault.clear()
        before = await process.find_keys()
        fault.set(Quirk(name))
        with pytest.raises(HSMFailure, match=advice):
            await process.generate_key("k")
        fault.clear()
        assert await process.find_keys() == before

    @pytest.mark.parametrize("name", [QuirkName.PIN_CU_USER, QuirkName.PIN_AUTH_KEY])
    async def test_is_suspected_where_the_pin_is_refused_and_the_pin_is_not_tried_again(
        self, host: tuple[HostProcess, FaultModule], name: QuirkName
    ) -> None:
        _, fault = host
        fault.set(Quirk(name))
        logins = fault.calls("C_Login")
        with pytest.RaisesGroup(pytest.RaisesExc(HostStartFailed, match="not in the form that this vendor wants")):
            async with running(fault.settings()):
                pytest.fail("it can not start")
        assert fault.calls("C_Login") == logins + 1


@pytest.mark.parametrize(
    ("vendor", "form"), [(Vendor.AWS_CLOUDHSM, "CU_user:password"), (Vendor.YUBIHSM, "hex digits")]
)
def test_a_pin_that_can_not_be_the_vendors_is_refused_before_it_costs_a_try(
    tmp_path: Path, vendor: Vendor, form: str
) -> None:
    token = SoftHSMToken.create(tmp_path / "softhsm", pin="no-form-at-all")
    with FaultModule.over(token, tmp_path / "p11fault.control") as fault:
        emulated = Emulated(vendor, ())
        config = manahsm.load_config(emulated.config(fault, tmp_path), environ={})
        with pytest.raises(manahsm.ConfigError, match=form):
            config.resolved_slots({})
        assert fault.calls("C_Initialize", "C_Login") == 0


async def test_a_pin_that_is_refused_as_a_login_is_renewed_for_new_keys_ends_the_host(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Else each try at making a key would use up another try of the PIN."""
    directory = tmp_path_factory.mktemp("refused")
    token = SoftHSMToken.create(directory / "softhsm")
    with FaultModule.over(token, directory / "p11fault.control") as fault:
        with pytest.RaisesGroup(pytest.RaisesExc(HostStartFailed, match="CKR_PIN_INCORRECT")) as ended:
            async with running(fault.settings()) as host:
                fault.set(Logout("C_GetSessionInfo", count=1), Return("C_Login", "CKR_PIN_INCORRECT"))
                logins = fault.calls("C_Login")
                with pytest.raises(HSMFailure, match="CKR_PIN_INCORRECT"):
                    await host.generate_key("k")
                with pytest.raises(HSMFailure, match="HOST_NOT_RUNNING"):
                    await host.generate_key("k")
        failure = ended.value.exceptions[0]
        assert isinstance(failure, HostStartFailed)
        assert failure.outcome.action is Action.LATCH
        assert fault.calls("C_Login") == logins + 1
