/*
 * image.h - a private copy of a live segment without mapping it.
 *
 * For readers that are guests in somebody's process and must not install a
 * handler for SIGBUS there: a file that is cut gives a short read, no signal.
 * A plain read has no order inside itself, so whatever stands under a sequence
 * is read three times: the sequence, the words, the sequence again, a system
 * call each. What never rests is marked in the copy as still being written.
 * Parts are copied in the order in which they refer to each other, and TABLES
 * of the copy says what was published when each of them was copied.
 *
 * Any thread; allocates scratch memory and gives it back. No code of Python.
 */
#ifndef LG_IMAGE_H
#define LG_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "../common/lg_geometry.h"

#define LG_IMAGE_ALL UINT32_MAX
#define LG_IMAGE_KIND(name) (UINT32_C(1) << LG_SEC_##name)

/* Copies the header page and the used part of the sections `kinds` (bits
 * LG_IMAGE_KIND) of the file `fd`, checked as `geo`, to the same offsets of
 * `bytes`. `size`: of `bytes`, at least up to the end of every section in
 * `geo`. What is not used is left as it was: begin with zeroes.
 * 0, LG_ETRUNCATED when the file became shorter, or -errno. */
int lg_image_take(int fd, const struct lg_geometry *geo, uint32_t kinds, uint8_t *bytes,
                  size_t size);

#endif
