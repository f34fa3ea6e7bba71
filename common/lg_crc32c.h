/* lg_crc32c.h - CRC-32C (Castagnoli, RFC 3720) of the immutable header page. */
#ifndef LG_CRC32C_H
#define LG_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t lg_crc32c(const void *data, size_t length);

#endif
