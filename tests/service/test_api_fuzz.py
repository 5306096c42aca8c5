"""The API's own description, held against its answers by Schemathesis: no request finds a fault of ours."""

from collections import Counter
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Flaky, FlakyStrategyDefinition
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from mithridate.service.policy_facts import report
from tests.service.conftest import Server, make_parts, new_key

CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "service"
    leases = {"patience": 3600, "beat": 1}
    parts = make_parts(folder, uses={"requests_per_minute": 10**6}, sizes={"idle_seconds": 2}, leases=leases)
    with parts.database.write() as connection:
        report(connection, "worker x")  # or it would not be ready, and rightly say so with 503
    server = Server(parts)
    server.key = new_key(parts, role="admin")
    yield server
    server.close()


@pytest.mark.parametrize("examples", [5, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_no_request_breaks_the_service(fuzzed, examples):
    tried = 0
    schema = schemathesis.openapi.from_dict(fuzzed.app.openapi())
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def holds(case):
            nonlocal tried
            tried += 1
            headers = {"Authorization": f"Bearer {fuzzed.key}"}
            answer = case.call(base_url=fuzzed.url, headers=headers)
            case.validate_response(answer, checks=CHECKS)

        holds()
    print(f"{tried} requests")
    assert tried >= 25 * min(examples, 5)


@pytest.mark.parametrize("examples", [5, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_no_sequence_of_requests_breaks_the_service(fuzzed, examples):
    """Ids of earlier answers are asked for, changed and deleted by later requests."""
    answered, faults = Counter(), []

    class Machine(schemathesis.openapi.from_dict(fuzzed.app.openapi()).as_state_machine()):
        def get_call_kwargs(self, case):
            return {"headers": {"Authorization": f"Bearer {fuzzed.key}"}, "base_url": fuzzed.url}

        def validate_response(self, response, case, **_):
            answered[response.status_code] += 1
            try:
                case.validate_response(response, checks=CHECKS)
            except (AssertionError, BaseExceptionGroup) as fault:
                faults.append(fault)

    once = settings(
        max_examples=5, stateful_step_count=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    for _ in range(examples // 5):
        # A sequence that is tried again meets what it made the first time, and may go another way.
        with suppress(FlakyStrategyDefinition, Flaky):
            Machine.run(settings=once)
    assert faults == []
    print(f"{answered.total()} requests, {answered[200]} carried out")
    assert answered[200] > 2 * examples
