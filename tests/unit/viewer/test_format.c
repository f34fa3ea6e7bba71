/* test_format.c - numbers, times and names as a reader sees them. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../common/lg_layout.h"
#include "format.h"

#define US UINT64_C(1000)
#define MS (1000 * US)
#define S (1000 * MS)

static char text[64];

static void
durations_have_three_digits_and_a_unit(void **state)
{
    static const struct {
        uint64_t ns;
        const char *text;
    } rows[] = {
        {0, "0"},
        {LG_NONE, "-"},
        {1, "<1us"},
        {499, "<1us"},
        {500, "1us"},
        {7 * US, "7us"},
        {15499, "15us"},
        {99499, "99us"},
        {99500, "0.10ms"},
        {420 * US, "0.42ms"},
        {4100 * US, "4.10ms"},
        {9994 * US, "9.99ms"},
        {9995 * US, "10.0ms"},
        {41 * MS, "41.0ms"},
        {99949 * US, "99.9ms"},
        {99950 * US, "100ms"},
        {812 * MS, "812ms"},
        {999499 * US, "999ms"},
        {999500 * US, "1.00s"},
        {1270 * MS, "1.27s"},
        {9995 * MS, "10.0s"},
        {63 * S, "63.0s"},
        {99950 * MS, "1m40s"},
        {725 * S, "12m05s"},
        {3599 * S, "59m59s"},
        {3599500 * MS, "1h00m"},
        {10920 * S, "3h02m"},
        {400 * 3600 * S, "16d16h"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_string_equal(lg_format_duration(rows[i].ns, text, sizeof(text)), rows[i].text);
    }
    assert_string_equal(lg_format_duration_wide(1270 * MS, text, sizeof(text)), "1.27 s");
}

static void
durations_never_shrink_when_time_grows(void **state)
{
    /* Reads each text back: rounding must not go down across a change of unit. */
    double last = 0;
    (void)state;
    for (uint64_t ns = 500; ns < 99 * S; ns += 1 + ns / 977) {
        char *unit;
        double n = strtod(lg_format_duration(ns, text, sizeof(text)), &unit);
        double scale = strcmp(unit, "us") == 0 ? 1e3 : strcmp(unit, "ms") == 0 ? 1e6 : 1e9;
        assert_true(n * scale >= last);
        assert_true(n * scale < (double)ns * 1.06 + 600);
        last = n * scale;
    }
}

static void
ages_and_uptimes_read_like_a_clock(void **state)
{
    (void)state;
    assert_string_equal(lg_format_age(12 * S, text, sizeof(text)), "00:12");
    assert_string_equal(lg_format_age(8047 * S, text, sizeof(text)), "02:14:07");
    assert_string_equal(lg_format_age(LG_NONE, text, sizeof(text)), "-");
    assert_string_equal(lg_format_age_short(6 * S, text, sizeof(text)), "6s");
    assert_string_equal(lg_format_age_short(61 * S, text, sizeof(text)), "1m");
    assert_string_equal(lg_format_age_short(50 * 3600 * S, text, sizeof(text)), "2d");
    assert_string_equal(lg_format_uptime(8047 * S, text, sizeof(text)), "02:14:07");
    assert_string_equal(lg_format_uptime((3 * 86400 + 14706) * S, text, sizeof(text)),
                        "3d 04:05:06");
}

static void
wall_times_bear_their_date_only_when_it_is_another_day(void **state)
{
    const uint64_t at = UINT64_C(1767276151408) * MS;   /* 2026-01-01 14:02:31.408 UTC */
    (void)state;
    assert_string_equal(lg_format_clock(at, 0, false, text, sizeof(text)), "14:02:31");
    assert_string_equal(lg_format_clock(at, at + 60 * S, true, text, sizeof(text)), "14:02:31.408");
    assert_string_equal(lg_format_clock(at, at + 86400 * S, false, text, sizeof(text)),
                        "2026-01-01 14:02:31");
    assert_string_equal(lg_format_clock(0, 0, false, text, sizeof(text)), "-");
    assert_string_equal(lg_format_clock(LG_NONE, 0, false, text, sizeof(text)), "-");
}

static void
counts_rates_and_shares_are_short(void **state)
{
    (void)state;
    assert_string_equal(lg_format_count(0, text, sizeof(text)), "0");
    assert_string_equal(lg_format_count(999, text, sizeof(text)), "999");
    assert_string_equal(lg_format_count(1204, text, sizeof(text)), "1,204");
    assert_string_equal(lg_format_count(1048576, text, sizeof(text)), "1,048,576");
    assert_string_equal(lg_format_count(LG_NONE, text, sizeof(text)), "-");
    assert_string_equal(lg_format_rate(212.3, text, sizeof(text)), "212");
    assert_string_equal(lg_format_rate(3.2, text, sizeof(text)), "3.2");
    assert_string_equal(lg_format_rate(0.04, text, sizeof(text)), "0.04");
    assert_string_equal(lg_format_rate(0.001, text, sizeof(text)), "<0.01");
    assert_string_equal(lg_format_rate(-1, text, sizeof(text)), "-");
    assert_string_equal(lg_format_share(0.193, text, sizeof(text)), "19.3%");
    assert_string_equal(lg_format_share(0.0096, text, sizeof(text)), "0.96%");
    assert_string_equal(lg_format_share(0.00001, text, sizeof(text)), "<0.01%");
    assert_string_equal(lg_format_share(1, text, sizeof(text)), "100%");
    assert_string_equal(lg_format_share(0, text, sizeof(text)), "0");
    assert_string_equal(lg_format_bytes(3565158, text, sizeof(text)), "3.4 MiB");
    assert_string_equal(lg_format_bytes(1023, text, sizeof(text)), "1023 B");
    assert_string_equal(lg_format_ms(50 * MS, text, sizeof(text)), "50");
    assert_string_equal(lg_format_ms(12500 * US, text, sizeof(text)), "12.5");
}

static void
a_text_is_cut_by_columns_and_says_so(void **state)
{
    (void)state;
    assert_string_equal(lg_format_cut("/users/{user_id}", 16, text, sizeof(text)),
                        "/users/{user_id}");
    assert_string_equal(lg_format_cut("/users/{user_id}", 8, text, sizeof(text)), "/users/~");
    assert_string_equal(lg_format_cut("/日本語", 7, text, sizeof(text)), "/日本語");
    assert_string_equal(lg_format_cut("/日本語", 6, text, sizeof(text)), "/日本~");
    assert_string_equal(lg_format_cut("/日本語", 5, text, sizeof(text)), "/日~");
    assert_string_equal(lg_format_cut("abc", 0, text, sizeof(text)), "");
    assert_int_equal(lg_format_columns("/日本語"), 7);
    assert_int_equal(lg_format_columns("e\xcc\x81"), 1);       /* e and a combining accent */
    assert_int_equal(lg_format_columns("\xff\xfe"), 2);
}

static void
a_cut_text_never_leaves_its_buffer(void **state)
{
    char small[8];
    (void)state;
    for (size_t size = 1; size <= sizeof(small); size++) {
        memset(small, 'x', sizeof(small));
        lg_format_cut("日本語日本語", 100, small, size);
        assert_true(strnlen(small, size) < size);
    }
}

static void
files_lose_what_a_reader_knows(void **state)
{
    static const struct {
        const char *file, *cwd, *prefix, *text;
        enum lg_origin origin;
    } rows[] = {
        {"/srv/a/app/x.py", "/srv/a", "", "app/x.py", LG_ORIGIN_USER},
        {"/srv/a/app/x.py", "/srv/a/", "", "app/x.py", LG_ORIGIN_USER},
        {"/srv/ab/x.py", "/srv/a", "", "/srv/ab/x.py", LG_ORIGIN_USER},
        {"/srv/a/x.py", "/", "", "/srv/a/x.py", LG_ORIGIN_USER},
        {"/srv/a/.venv/lib/python3.12/site-packages/orm/q.py", "/srv/a", "/srv/a/.venv", "orm/q.py",
         LG_ORIGIN_LIBRARY},
        {"/usr/lib/python3.12/json/decoder.py", "/srv/a", "/srv/a/.venv", "json/decoder.py",
         LG_ORIGIN_STDLIB},
        {"/usr/lib/python3/dist-packages/yaml/x.py", "", "", "yaml/x.py", LG_ORIGIN_LIBRARY},
        {"/opt/env/share/tool.py", "/srv/a", "/opt/env", "share/tool.py", LG_ORIGIN_LIBRARY},
        {"/home/ann/site-packages/mine.py", "/home/ann/site-packages", "", "mine.py",
         LG_ORIGIN_USER},
        {"/srv/a/mylib/python/x.py", "/srv/b", "", "/srv/a/mylib/python/x.py", LG_ORIGIN_USER},
        {"<frozen runpy>", "/srv/a", "", "<frozen runpy>", LG_ORIGIN_STDLIB},
        {"<string>", "/srv/a", "", "<string>", LG_ORIGIN_BUILTIN},
        {"", "/srv/a", "", "", LG_ORIGIN_BUILTIN},
    };
    char out[128];
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        lg_format_file(rows[i].file, rows[i].cwd, rows[i].prefix, out, sizeof(out));
        assert_string_equal(out, rows[i].text);
        assert_int_equal(lg_format_origin(rows[i].file, rows[i].cwd, rows[i].prefix),
                         rows[i].origin);
    }
}

static void
strange_numbers_are_shown_as_such(void **state)
{
    (void)state;
    assert_string_equal(lg_format_kind(LG_KIND_WEBSOCKET), "websocket");
    assert_string_equal(lg_format_kind(99), "?99");
    assert_string_equal(lg_format_method(200), "?200");
    assert_string_equal(lg_format_cause(LG_CAUSE_UNKNOWN), "unknown");
    assert_string_equal(lg_format_cause(77), "?77");
    assert_string_equal(lg_format_stall_kind(4), "?4");
    assert_string_equal(lg_format_label(LG_KIND_TASK, 0, "poll"), "(task)");
    assert_string_equal(lg_format_label(LG_KIND_LOOP, 0, "(loop)"), "");
    assert_string_equal(lg_format_python(0x030C07F0, text, sizeof(text)), "3.12.7");
    assert_string_equal(lg_format_python(0x030E00B1, text, sizeof(text)), "3.14.0b1");
}

int
main(void)
{
    setenv("TZ", "UTC", 1);
    tzset();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_have_three_digits_and_a_unit),
        cmocka_unit_test(durations_never_shrink_when_time_grows),
        cmocka_unit_test(ages_and_uptimes_read_like_a_clock),
        cmocka_unit_test(wall_times_bear_their_date_only_when_it_is_another_day),
        cmocka_unit_test(counts_rates_and_shares_are_short),
        cmocka_unit_test(a_text_is_cut_by_columns_and_says_so),
        cmocka_unit_test(a_cut_text_never_leaves_its_buffer),
        cmocka_unit_test(files_lose_what_a_reader_knows),
        cmocka_unit_test(strange_numbers_are_shown_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
