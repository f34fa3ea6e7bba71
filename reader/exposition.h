/*
 * exposition.h - sums as text, in Prometheus's exposition format 0.0.4.
 */
#ifndef LG_READER_EXPOSITION_H
#define LG_READER_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>

#include "families.h"

/* `originals`: the four of fastapi-loopguard, too. The text is the caller's to
 * free. 0 or -ENOMEM. */
int lg_exposition(const struct lg_families *families, bool originals, char **text, size_t *size);

#endif
