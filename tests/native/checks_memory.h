#pragma once

void check_memory();
