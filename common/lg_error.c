/*
 * lg_error.c - words for every code that a loopguard function returns.
 *
 * Any thread: the text of an errno lies in thread-local storage.
 */
#include "lg_error.h"

#include <stdio.h>
#include <string.h>

const char *
lg_strerror(int code)
{
    static _Thread_local char text[128];
    switch (code) {
    case 0:
        return "no error";
#define LG_X(name, number, words) \
    case name: \
        return words;
        LG_ERRORS(LG_X)
#undef LG_X
    default:
        break;
    }
    if (code < 0 && code > -4000) {
        /* The GNU variant: may return its own constant instead of `text`. */
        return strerror_r(-code, text, sizeof(text));
    }
    snprintf(text, sizeof(text), "error %d", code);
    return text;
}
