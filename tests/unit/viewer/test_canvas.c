/*
 * test_canvas.c - cells: what is cut, what is replaced, what is kept.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "canvas.h"

static int
make_canvas(void **state)
{
    static struct lg_canvas canvas;
    *state = &canvas;
    return lg_canvas_size(&canvas, 2, 8, false);
}

static int
free_canvas(void **state)
{
    lg_canvas_free(*state);
    return 0;
}

/* The two rows as text; the caller frees. */
static char *
text_of(const struct lg_canvas *canvas)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    lg_canvas_write(canvas, out);
    fclose(out);
    return text;
}

static void
assert_shows(const struct lg_canvas *canvas, const char *expected)
{
    char *text = text_of(canvas);
    assert_string_equal(text, expected);
    free(text);
}

static void
text_is_cut_at_every_edge(void **state)
{
    struct lg_canvas *canvas = *state;
    assert_int_equal(lg_canvas_put(canvas, 0, 6, LG_STYLE_NORMAL, "abc"), 9);
    lg_canvas_put(canvas, 1, -1, LG_STYLE_NORMAL, "xyz");
    lg_canvas_put(canvas, 2, 0, LG_STYLE_NORMAL, "below");
    lg_canvas_put(canvas, -1, 0, LG_STYLE_NORMAL, "above");
    assert_shows(canvas, "      ab\nyz\n");
}

static void
fields_are_aligned_and_say_when_they_are_cut(void **state)
{
    struct lg_canvas *canvas = *state;
    assert_int_equal(lg_canvas_field_right(canvas, 0, 0, 4, LG_STYLE_NORMAL, "7"), 4);
    assert_int_equal(lg_canvas_field(canvas, 0, 4, 4, LG_STYLE_NORMAL, "reports"), 8);
    assert_int_equal(lg_canvas_right(canvas, 1, 7, LG_STYLE_NORMAL, "end"), 4);
    assert_shows(canvas, "   7rep~\n    end\n");
}

static void
control_characters_never_reach_a_cell(void **state)
{
    struct lg_canvas *canvas = *state;
    lg_canvas_put(canvas, 0, 0, LG_STYLE_NORMAL, "a\x1b[2J\x7f");
    lg_canvas_put(canvas, 1, 0, LG_STYLE_NORMAL,
                  "\xc2\x9b"
                  "b\xff"
                  "c\xe2\x82");
    assert_shows(canvas, "a?[2J?\n?b?c?\n");
}

static void
wide_characters_take_two_cells_and_never_half_a_one(void **state)
{
    struct lg_canvas *canvas = *state;
    assert_int_equal(lg_canvas_put(canvas, 0, 0, LG_STYLE_NORMAL, "\xe6\x9d\xb1x"), 3);
    lg_canvas_put(canvas, 1, 7, LG_STYLE_NORMAL, "\xe6\x9d\xb1");
    assert_int_equal(canvas->place[1].code, 0);
    assert_shows(canvas, "\xe6\x9d\xb1x\n\n");
}

static void
ascii_canvas_holds_only_ascii(void **state)
{
    struct lg_canvas *canvas = *state;
    assert_int_equal(lg_canvas_size(canvas, 2, 8, true), 0);
    lg_canvas_put(canvas, 0, 0, LG_STYLE_NORMAL, "caf\xc3\xa9 \xe6\x9d\xb1.");
    assert_shows(canvas, "caf? ?.\n\n");
}

static void
utf8_of_a_character_is_the_standard_one(void **state)
{
    char utf8[5];
    (void)state;
    assert_int_equal(lg_canvas_utf8(0x2588, utf8), 3);
    assert_string_equal(utf8, "\xe2\x96\x88");
    assert_int_equal(lg_canvas_utf8(0x1f600, utf8), 4);
    assert_string_equal(utf8, "\xf0\x9f\x98\x80");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(text_is_cut_at_every_edge, make_canvas, free_canvas),
        cmocka_unit_test_setup_teardown(fields_are_aligned_and_say_when_they_are_cut, make_canvas,
                                        free_canvas),
        cmocka_unit_test_setup_teardown(control_characters_never_reach_a_cell, make_canvas,
                                        free_canvas),
        cmocka_unit_test_setup_teardown(wide_characters_take_two_cells_and_never_half_a_one,
                                        make_canvas, free_canvas),
        cmocka_unit_test_setup_teardown(ascii_canvas_holds_only_ascii, make_canvas, free_canvas),
        cmocka_unit_test(utf8_of_a_character_is_the_standard_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
