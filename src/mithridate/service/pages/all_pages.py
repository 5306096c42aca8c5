"""Every page."""

from mithridate.service.pages import file_pages, job_pages, operator_pages, sign_in_pages

PAGES = (sign_in_pages.pages, job_pages.pages, file_pages.pages, operator_pages.pages)
