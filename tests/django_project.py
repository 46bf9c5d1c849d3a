"""A Django project in one file: settings, a view, and the tests that its author writes. `test_testing.py` runs them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, StreamingHttpResponse
from django.test import TestCase
from django.urls import path

from ssemiddleware import SSEMiddleware
from ssemiddleware.testing import open_stream

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "tests.django_project"
SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["*"]


def visitors(request: HttpRequest) -> StreamingHttpResponse:
    if "blocked" in request.GET:
        threading.Event().wait()

    def produce() -> Iterator[str]:
        while True:
            with connection.cursor() as cursor:
                cursor.execute("SELECT name FROM visitors")
                yield f"data: {[name for (name,) in cursor.fetchall()]}\n\n"

    return StreamingHttpResponse(produce(), content_type="text/event-stream")


urlpatterns = [path("visitors", visitors)]


class VisitorTests(TestCase):  # type: ignore[misc]  # Django has no types
    applications = (get_wsgi_application, lambda: SSEMiddleware(get_wsgi_application()))

    @classmethod
    def setUpTestData(cls) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE visitors (name)")

    def insert(self, name: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO visitors VALUES (%s)", [name])

    def test_rows_of_the_tests_transaction_are_seen(self) -> None:
        for get_application in self.applications:
            with self.subTest(get_application), open_stream(get_application(), "/visitors") as stream:
                before = stream.next_event().data
                self.insert("Ada")
                assert stream.next_event().data != before
        assert connection.in_atomic_block
        self.insert("after the streams")

    def test_a_view_that_blocks_is_a_timeout_and_not_a_status_500(self) -> None:
        for get_application in self.applications:
            with self.subTest(get_application), pytest.raises(TimeoutError, match="no headers"):
                open_stream(get_application(), "/visitors?blocked", timeout=0.05)
        self.insert("after the timeouts")
