/*
 * lg_crc32c.c - CRC-32C, four bits at a time.
 *
 * Runs over 4 KiB once per segment on either side: 16 words of table are
 * enough, and no instruction set has to be asked for.
 */
#include "lg_crc32c.h"

/* Remainders of the 16 half-bytes for the reflected polynomial 0x82F63B78. */
static const uint32_t remainder_of[16] = {
    0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
    0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9, 0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
};

uint32_t
lg_crc32c(const void *data, size_t length)
{
    const uint8_t *byte = data;
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < length; i++) {
        crc ^= byte[i];
        crc = (crc >> 4) ^ remainder_of[crc & 15];
        crc = (crc >> 4) ^ remainder_of[crc & 15];
    }
    return ~crc;
}
