/*
 * text.h - copying a text into a field of fixed size: cut, always terminated.
 */
#ifndef LG_AGENT_TEXT_H
#define LG_AGENT_TEXT_H

#include <string.h>

static inline void
lg_text_set(char *out, size_t size, const char *in)
{
    size_t length = strnlen(in, size - 1);
    memcpy(out, in, length);
    memset(out + length, 0, size - length);
}

#endif
