/* test_lg_text.c - foreign bytes become text that a terminal only prints. */
#include "rig.h"

struct text_case {
    const char *what, *in, *out;
};

static void
foreign_bytes_are_made_harmless(void **state)
{
    static const struct text_case cases[] = {
        {"plain", "/items/{id}", "/items/{id}"},
        {"two, three, four bytes", "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x90\x8D",
         "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x90\x8D"},
        {"C0", "a\x1b[2Jb\tc\r\n", "a?[2Jb?c??"},
        {"DEL", "a\x7f", "a?"},
        {"C1 as character",
         "a\xC2\x9B"
         "31m",
         "a?31m"},
        {"C1 as byte",
         "a\x9B"
         "31m",
         "a?31m"},
        {"no-break space stays", "a\xC2\xA0z", "a\xC2\xA0z"},
        {"bidi embedding",
         "a\xE2\x80\xAA"
         "b\xE2\x80\xAE"
         "c",
         "a?b?c"},
        {"bidi isolates",
         "a\xE2\x81\xA6"
         "b\xE2\x81\xA9"
         "c",
         "a?b?c"},
        {"bidi marks", "\xD8\x9C\xE2\x80\x8E\xE2\x80\x8F", "???"},
        {"their neighbours stay", "\xE2\x80\xA9\xE2\x80\xAF\xE2\x81\xA5\xE2\x81\xAA",
         "\xE2\x80\xA9\xE2\x80\xAF\xE2\x81\xA5\xE2\x81\xAA"},
        {"cut in mid sequence", "ab\xE2\x82", "ab??"},
        {"sequence broken by a letter", "\xE2\x82z", "??z"},
        {"lone continuation", "\x80\xBF", "??"},
        {"overlong slash", "\xC0\xAF", "??"},
        {"overlong of three", "\xE0\x80\xAF", "???"},
        {"surrogate", "\xED\xA0\x80", "???"},
        {"beyond U+10FFFF", "\xF4\x90\x80\x80", "????"},
        {"never a lead", "\xF8\xFF\xFE", "???"},
        {"last character", "\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
    };
    char out[64];
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        lg_text_clean(cases[i].in, strlen(cases[i].in), out, sizeof(out));
        if (strcmp(out, cases[i].out) != 0) {
            fail_msg("%s: \"%s\"", cases[i].what, out);
        }
    }
}

static void
text_ends_at_a_nul(void **state)
{
    char out[16];
    (void)state;
    lg_text_clean("ab\0cd", 5, out, sizeof(out));
    assert_string_equal(out, "ab");
}

static void
small_place_gets_whole_characters_only(void **state)
{
    char out[8];
    (void)state;
    memset(out, 'x', sizeof(out));
    lg_text_clean("ab\xE2\x82\xAC", 5, out, 5);
    assert_string_equal(out, "ab");
    lg_text_clean("ab\xE2\x82\xAC", 5, out, 6);
    assert_string_equal(out, "ab\xE2\x82\xAC");
    lg_text_clean("abc", 3, out, 1);
    assert_string_equal(out, "");
    out[0] = 'x';
    lg_text_clean("abc", 3, out, 0);
    assert_int_equal(out[0], 'x');
}

static void
any_two_bytes_give_no_control_byte(void **state)
{
    char out[8];
    (void)state;
    for (unsigned pair = 0; pair < 65536; pair++) {
        char in[3] = {'a', (char)(pair >> 8), (char)pair};
        lg_text_clean(in, sizeof(in), out, sizeof(out));
        for (char *c = out; *c != '\0'; c++) {
            assert_true((unsigned char)*c >= 0x20 && *c != 0x7F);
        }
    }
}

/* STRINGS with id 0 = "" and id 1 = "name", 16 bytes published. */
static const uint8_t table[24] = {0,   0,   0, 0, 0, 0, 0,   0,   4, 0, 'n', 'a',
                                  'm', 'e', 0, 0, 2, 0, 'z', 'z', 0, 0, 0,   0};

static void
known_id_gives_its_text(void **state)
{
    char out[16];
    (void)state;
    assert_true(lg_string_get(table, 16, 1, out, sizeof(out)));
    assert_string_equal(out, "name");
    assert_true(lg_string_get(table, 16, 0, out, sizeof(out)));
    assert_string_equal(out, "");
}

static void
id_that_is_not_there_prints_as_a_number(void **state)
{
    char out[16];
    (void)state;
    assert_false(lg_string_get(table, 16, 2, out, sizeof(out)));    /* not published */
    assert_string_equal(out, "?2");
    assert_false(lg_string_get(table, 16, UINT32_MAX, out, sizeof(out)));
    assert_string_equal(out, "?4294967295");
    assert_false(lg_string_get(table, 0, 0, out, sizeof(out)));
    assert_string_equal(out, "?0");
    assert_false(lg_string_get(table, 16, 17, out, 3));
    assert_string_equal(out, "?1");
}

static void
entry_that_runs_beyond_the_table_is_not_read(void **state)
{
    char out[600];
    (void)state;
    for (unsigned length = 6; length < 65536; length += 7) {
        uint8_t *strings = malloc(16);          /* a sanitizer sees one byte more */
        assert_non_null(strings);
        memcpy(strings, table, 16);
        strings[8] = (uint8_t)length;
        strings[9] = (uint8_t)(length >> 8);
        assert_false(lg_string_get(strings, 16, 1, out, sizeof(out)));
        assert_string_equal(out, "?1");
        free(strings);
    }
}

static void
entry_without_its_nul_is_not_believed(void **state)
{
    uint8_t strings[16];
    char out[16];
    (void)state;
    memcpy(strings, table, 16);
    strings[14] = 'x';
    assert_false(lg_string_get(strings, 16, 1, out, sizeof(out)));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(foreign_bytes_are_made_harmless),
        cmocka_unit_test(text_ends_at_a_nul),
        cmocka_unit_test(small_place_gets_whole_characters_only),
        cmocka_unit_test(any_two_bytes_give_no_control_byte),
        cmocka_unit_test(known_id_gives_its_text),
        cmocka_unit_test(id_that_is_not_there_prints_as_a_number),
        cmocka_unit_test(entry_that_runs_beyond_the_table_is_not_read),
        cmocka_unit_test(entry_without_its_nul_is_not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
