/* test_options.c - the command line: one table for parsing and for the help. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define ARGC(argv) ((int)(sizeof(argv) / sizeof((argv)[0])) - 1)

static struct lg_options options;
static char said[4096];

/* Parses words up to NULL; what was said is in `said`. */
static int
parse(char **argv, int argc)
{
    FILE *err = fmemopen(said, sizeof(said), "w");
    assert_non_null(err);
    memset(said, 0, sizeof(said));
    lg_options_free(&options);
    int status = lg_options_parse_top(argc, argv, &options, err);
    fclose(err);
    return status;
}
#define PARSE(...) \
    parse((char *[]){"loopguard-top", __VA_ARGS__, NULL}, \
          ARGC(((char *[]){"loopguard-top", __VA_ARGS__, NULL})))

static void
short_and_long_forms_mean_the_same(void **state)
{
    (void)state;
    assert_int_equal(PARSE("-w", "1m", "-N", "3", "-m", "12.5", "-sp99", "-d", "0.5"), 0);
    struct lg_options first = options;
    assert_int_equal(PARSE("--window=1m", "--top", "3", "--min=12.5", "--sort=p99", "--delay=0.5"),
                     0);
    assert_int_equal(first.view.window, LG_WINDOW_1M);
    assert_int_equal(first.view.top, 3);
    assert_int_equal(first.view.min_ns, 12500000);
    assert_int_equal(first.view.sort, LG_SORT_P99);
    assert_memory_equal(&first.view, &options.view, sizeof(first.view));
    assert_true(first.delay_s > 0.49 && first.delay_s < 0.51);
    assert_true(first.window_given);
}

static void
pids_come_as_operands_and_in_lists(void **state)
{
    (void)state;
    assert_int_equal(PARSE("12", "-p", "13,14", "15"), 0);
    assert_int_equal(options.pid_count, 4);
    assert_int_equal(options.pids[0], 13);      /* options first, as getopt sorts them */
    assert_int_equal(options.pids[3], 15);
}

static void
wait_takes_a_number_or_none(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--wait", "12"), 0);
    assert_true(options.wait && options.wait_s < 0);
    assert_int_equal(options.pids[0], 12);
    assert_int_equal(PARSE("-t5", "12"), 0);
    assert_true(options.wait_s > 4.9 && options.wait_s < 5.1);
}

static void
the_variable_comes_first_and_the_line_wins(void **state)
{
    (void)state;
    setenv(LG_TOP_VARIABLE, "  -w 1m\t-U --sort=name ", 1);
    assert_int_equal(PARSE("-w", "5m"), 0);
    assert_int_equal(options.view.window, LG_WINDOW_5M);
    assert_int_equal(options.view.sort, LG_SORT_NAME);
    assert_true(options.ascii);
    setenv(LG_TOP_VARIABLE, "--nonsense", 1);
    assert_int_equal(PARSE("-1"), LG_EXIT_USAGE);
    assert_string_equal(said,
                        "loopguard-top: unrecognized option '--nonsense'\n"
                        "Try 'loopguard-top --help' for more information.\n");
    unsetenv(LG_TOP_VARIABLE);
}

static void
too_many_of_anything_is_an_error_not_an_overflow(void **state)
{
    char list[LG_MAX_NAMED * 2 + 4] = "1";
    (void)state;
    for (int i = 0; i < LG_MAX_NAMED; i++) {
        strcat(list, ",1");
    }
    assert_int_equal(PARSE("-p", list), LG_EXIT_USAGE);
    assert_non_null(strstr(said, "more than 256 processes"));
}

static void
every_row_of_the_table_stands_in_the_help(void **state)
{
    char help[8192] = "";
    FILE *out = fmemopen(help, sizeof(help), "w");
    (void)state;
    assert_non_null(out);
    lg_options_help_top(out);
    fclose(out);
#define LG_G(title) assert_non_null(strstr(help, "\n" title "\n"));
#define LG_X(id, letter, name, argument, word, text) \
    assert_non_null(strstr(help, "--" name)); \
    assert_non_null(strstr(help, text)); \
    if ((letter) != 0) { \
        assert_non_null(strstr(help, (char[]){'\n', ' ', ' ', '-', (letter), ',', '\0'})); \
    }
    LG_TOP_OPTIONS(LG_X, LG_G)
#undef LG_X
#undef LG_G
}

static void
every_row_of_the_table_is_accepted(void **state)
{
    (void)state;
#define LG_G(title)
#define LG_X(id, letter, name, argument, word, text) \
    (void)PARSE("--" name); \
    assert_null(strstr(said, "unrecognized"));
    LG_TOP_OPTIONS(LG_X, LG_G)
#undef LG_X
#undef LG_G
}

static void
no_letter_and_no_name_stands_twice(void **state)
{
    static const struct {
        char letter;
        const char *name;
    } rows[] = {
#define LG_G(title)
#define LG_X(id, letter, name, argument, word, text) {letter, name},
        LG_TOP_OPTIONS(LG_X, LG_G)
#undef LG_X
#undef LG_G
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(rows[i].name, rows[k].name);
            assert_true(rows[i].letter == 0 || rows[i].letter != rows[k].letter);
        }
    }
}

static void
keys_of_sorts_and_windows_read_back(void **state)
{
    enum lg_sort sort;
    enum lg_window window;
    (void)state;
    for (int i = 0; i < LG_SORT_COUNT; i++) {
        assert_true(lg_sort_from_text(lg_sort_key((enum lg_sort)i), &sort));
        assert_int_equal(sort, i);
    }
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        assert_true(lg_window_from_text(lg_window_text((enum lg_window)i), &window));
        assert_int_equal(window, i);
    }
    assert_false(lg_window_from_text("10", &window));
}

static void
no_color_is_obeyed_unless_told_otherwise(void **state)
{
    (void)state;
    setenv("NO_COLOR", "1", 1);
    assert_int_equal(PARSE("--color=always"), 0);
    assert_true(lg_options_use_color(&options, 1));
    assert_int_equal(PARSE("--color=auto"), 0);
    assert_false(lg_options_use_color(&options, 1));
    unsetenv("NO_COLOR");
}

int
main(void)
{
    unsetenv(LG_TOP_VARIABLE);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_and_long_forms_mean_the_same),
        cmocka_unit_test(pids_come_as_operands_and_in_lists),
        cmocka_unit_test(wait_takes_a_number_or_none),
        cmocka_unit_test(the_variable_comes_first_and_the_line_wins),
        cmocka_unit_test(too_many_of_anything_is_an_error_not_an_overflow),
        cmocka_unit_test(every_row_of_the_table_stands_in_the_help),
        cmocka_unit_test(every_row_of_the_table_is_accepted),
        cmocka_unit_test(no_letter_and_no_name_stands_twice),
        cmocka_unit_test(keys_of_sorts_and_windows_read_back),
        cmocka_unit_test(no_color_is_obeyed_unless_told_otherwise),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lg_options_free(&options);
    return failed;
}
