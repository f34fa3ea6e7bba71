/*
 * glyphs.c - the two tables of glyphs.h. No state.
 */
#include "glyphs.h"

#include <langinfo.h>
#include <string.h>

static const struct lg_glyphs utf8_glyphs = {
    .utf8 = true,
    .one =
        {
#define LG_X(name, utf8, ascii) utf8,
            LG_GLYPHS(LG_X)
#undef LG_X
        },
    .level = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
    .part = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"},
};

static const struct lg_glyphs ascii_glyphs = {
    .utf8 = false,
    .one =
        {
#define LG_X(name, utf8, ascii) ascii,
            LG_GLYPHS(LG_X)
#undef LG_X
        },
    .level = {".", ":", "-", "=", "+", "*", "#", "@"},
    /* Half a column or more is worth a mark, less is not. */
    .part = {"", "", "", "", ":", ":", ":", ":"},
};

const struct lg_glyphs *
lg_glyphs_choose(bool ascii)
{
    bool can = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    return can && !ascii ? &utf8_glyphs : &ascii_glyphs;
}
